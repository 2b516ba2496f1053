#include "weft/catalog/memory/memory_store.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "weft/catalog/testing/conformance.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

using testing::kModel;
using testing::Passed;
using testing::PublisherInfo;
using testing::ReceiverInfo;
using testing::Soon;
using testing::StoreConformanceTest;
using testing::StoreMaker;
using testing::StoreSetup;
using testing::StoreUnderTest;

class MemoryStoreUnderTest : public StoreUnderTest {
 public:
  explicit MemoryStoreUnderTest(const StoreSetup& setup)
      : store_(MakeMemoryStore({.now = setup.now,
                                .lease_duration = setup.lease_duration,
                                .attach_within = setup.attach_within})) {}
  CatalogStore& first() override { return *store_; }
  CatalogStore& second() override { return *store_; }

 private:
  std::unique_ptr<CatalogStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Memory, StoreConformanceTest,
                         ::testing::Values(StoreMaker{
                             "memory", [](const StoreSetup& setup) {
                               return std::make_unique<MemoryStoreUnderTest>(
                                   setup);
                             }}));

std::string Put(CatalogStore& store, const std::string& bytes) {
  const std::string digest = manifest::DigestOf(bytes).ToHex();
  EXPECT_EQ(store.PutPlacement(digest, bytes, Soon()), absl::OkStatus());
  return digest;
}

TEST(MemoryStoreTest, UnusedPlacementsGoTheOldestFirst) {
  const auto store = MakeMemoryStore({.unused_placements_kept = 2});
  WorkerInfo info = PublisherInfo(0, 1);
  const std::string used = Put(*store, "used");
  info.placement_digest_hex = used;
  const auto registration = store->Register(info, "", Soon());
  ASSERT_EQ(registration.status(), absl::OkStatus());
  auto attachment = store->Attach(registration->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  const std::string a = Put(*store, "a");
  const std::string b = Put(*store, "b");
  EXPECT_EQ(Put(*store, "a"), a);  // now younger than b
  const std::string c = Put(*store, "c");
  EXPECT_EQ(store->GetPlacement(b, Soon()).status().code(),
            absl::StatusCode::kNotFound);
  for (const std::string& kept : {used, a, c}) {
    EXPECT_TRUE(store->GetPlacement(kept, Soon()).ok());
  }
  attachment->reset();  // `used` is now the youngest of the unused ones
  EXPECT_FALSE(store->GetPlacement(a, Soon()).ok());
  EXPECT_TRUE(store->GetPlacement(used, Soon()).ok());
}

TEST(MemoryStoreTest, UnusedPlacementsAreLimitedInBytes) {
  const auto store = MakeMemoryStore({.unused_placement_bytes_kept = 10});
  const std::string first = Put(*store, std::string(6, 'a'));
  const std::string second = Put(*store, std::string(6, 'b'));
  EXPECT_FALSE(store->GetPlacement(first, Soon()).ok());
  EXPECT_TRUE(store->GetPlacement(second, Soon()).ok());
  const std::string larger = Put(*store, std::string(60, 'c'));
  EXPECT_TRUE(store->GetPlacement(larger, Soon()).ok());
}

// With the real clock, and nobody who calls.
TEST(MemoryStoreTest, ALeaseExpiresWhileAnUpdateWaits) {
  const auto store =
      MakeMemoryStore({.lease_duration = std::chrono::milliseconds(30)});
  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = Put(*store, "p");
  const auto publisher = store->Register(info, "", Soon());
  const auto receiver = store->Register(ReceiverInfo(), "", Soon());
  const auto one = store->Attach(publisher->worker_id, Soon());
  const auto two = store->Attach(receiver->worker_id, Soon());
  ASSERT_TRUE(store->PublishShard(publisher->worker_id, 1, Soon()).ok());
  ASSERT_TRUE(
      store->AcquireLease(receiver->worker_id, testing::Version(1), Soon())
          .ok());
  const auto revoked = store->BeginUpdate(publisher->worker_id, Soon());
  ASSERT_EQ(revoked.status(), absl::OkStatus());
  EXPECT_EQ(*revoked, 0);
}

TEST(MemoryStoreTest, NumbersOfARestartedStoreAreNew) {
  auto store = MakeMemoryStore();
  const auto before = store->Register(ReceiverInfo(), "", Soon());
  store = MakeMemoryStore();
  const auto after = store->Register(ReceiverInfo(), "", Soon());
  EXPECT_GT(after->generation, before->generation);
  EXPECT_EQ(store->Attach(before->worker_id, Soon()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(MemoryStoreTest, TheEndOfTheStoreEndsItsWatches) {
  auto store = MakeMemoryStore();
  const auto registration = store->Register(ReceiverInfo(), "", Soon());
  const auto attachment = store->Attach(registration->worker_id, Soon());
  const auto watch = store->WatchVersions(kModel, Soon());
  store.reset();
  EXPECT_EQ((*watch)->Next(Soon()).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ((*attachment)->Health().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace weft::catalog
