#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"

namespace weft::catalog {
namespace {

using testing::StoreConformanceTest;
using testing::StoreMaker;
using testing::StoreSetup;
using testing::StoreUnderTest;

// Two clients of one server of a memory store. The attachments of a test die
// before this does; watches need not.
class GrpcStoreUnderTest : public StoreUnderTest {
 public:
  static std::unique_ptr<StoreUnderTest> Make(const StoreSetup& setup) {
    auto made = std::make_unique<GrpcStoreUnderTest>();
    made->memory_ = MakeMemoryStore({.now = setup.now,
                                     .lease_duration = setup.lease_duration,
                                     .attach_within = setup.attach_within});
    auto server = CatalogServer::Start("127.0.0.1:0", made->memory_.get());
    EXPECT_EQ(server.status(), absl::OkStatus());
    if (!server.ok()) return nullptr;
    made->server_ = *std::move(server);
    const std::string address =
        absl::StrCat("127.0.0.1:", made->server_->port());
    for (auto* client : {&made->first_, &made->second_}) {
      auto connected = MakeGrpcClient(address);
      EXPECT_EQ(connected.status(), absl::OkStatus());
      if (!connected.ok()) return nullptr;
      *client = *std::move(connected);
    }
    return made;
  }

  CatalogStore& first() override { return *first_; }
  CatalogStore& second() override { return *second_; }

 private:
  std::unique_ptr<CatalogStore> memory_;
  std::unique_ptr<CatalogServer> server_;
  std::unique_ptr<CatalogStore> first_;
  std::unique_ptr<CatalogStore> second_;
};

INSTANTIATE_TEST_SUITE_P(Grpc, StoreConformanceTest,
                         ::testing::Values(StoreMaker{
                             "grpc", GrpcStoreUnderTest::Make}));

}  // namespace
}  // namespace weft::catalog
