// Two servers on one Redis, and a client that knows both.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/redis/redis_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/forwarding_store.h"
#include "weft/catalog/testing/redis_process.h"

namespace weft::catalog {
namespace {

using absl::StatusCode;
using testing::Join;
using testing::kModel;
using testing::Member;
using testing::PublisherInfo;
using testing::ReceiverInfo;
using testing::RedisProcess;
using testing::Soon;
using testing::StoreConformanceTest;
using testing::StoreMaker;
using testing::StoreSetup;
using testing::StoreUnderTest;
using testing::Version;

RedisProcess& Redis() {
  static RedisProcess redis(/*durable=*/false);
  return redis;
}

// A catalog that can be taken away and put back at its address.
class Catalog {
 public:
  explicit Catalog(std::string url, RedisStoreOptions options = {})
      : url_(std::move(url)), options_(std::move(options)) {
    Start();
  }
  ~Catalog() { Stop(); }

  void Start() {
    auto store = MakeRedisStore(url_, options_);
    ASSERT_EQ(store.status(), absl::OkStatus());
    store_ = *std::move(store);
    auto server =
        CatalogServer::Start(absl::StrCat("127.0.0.1:", port_), store_.get());
    ASSERT_EQ(server.status(), absl::OkStatus());
    server_ = *std::move(server);
    port_ = server_->port();
  }
  void Stop() {
    server_.reset();
    store_.reset();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  CatalogStore& store() { return *store_; }

 private:
  const std::string url_;
  const RedisStoreOptions options_;
  std::unique_ptr<CatalogStore> store_;
  std::unique_ptr<CatalogServer> server_;
  int port_ = 0;
};

std::unique_ptr<CatalogStore> Connect(const std::string& addresses) {
  auto client =
      MakeGrpcClient(addresses, {.reconnect_within = std::chrono::seconds(30)});
  EXPECT_EQ(client.status(), absl::OkStatus());
  return client.ok() ? *std::move(client) : nullptr;
}

// The suite through two clients of two servers each, in the other order.
class FailoverUnderTest : public StoreUnderTest {
 public:
  static std::unique_ptr<StoreUnderTest> Make(const StoreSetup& setup) {
    auto made = std::make_unique<FailoverUnderTest>();
    const std::string url = Redis().NewUrl();
    const RedisStoreOptions options{.now = setup.now,
                                    .lease_duration = setup.lease_duration,
                                    .attach_within = setup.attach_within};
    for (auto& catalog : made->catalogs_) {
      catalog = std::make_unique<Catalog>(url, options);
    }
    const std::string one = made->catalogs_[0]->address();
    const std::string two = made->catalogs_[1]->address();
    // BeginUpdate asks the server that holds the worker, so both clients of a
    // test go through the same one.
    made->first_ = Connect(absl::StrCat(one, ",", two));
    made->second_ = Connect(absl::StrCat(one, ",", two));
    return made;
  }
  CatalogStore& first() override { return *first_; }
  CatalogStore& second() override { return *second_; }

 private:
  std::unique_ptr<Catalog> catalogs_[2];
  std::unique_ptr<CatalogStore> first_;
  std::unique_ptr<CatalogStore> second_;
};

INSTANTIATE_TEST_SUITE_P(Failover, StoreConformanceTest,
                         ::testing::Values(StoreMaker{
                             "failover", FailoverUnderTest::Make}));

TEST(FailoverTest, WorkersLeasesAndWatchesMoveToTheOtherServer) {
  const std::string url = Redis().NewUrl();
  Catalog one(url);
  Catalog two(url);
  const auto client = Connect(absl::StrCat(one.address(), ",", two.address()));
  Member publisher = Join(*client, PublisherInfo(0, 1));
  Member receiver = Join(*client, ReceiverInfo());
  const auto watch = client->WatchVersions(kModel, Soon());
  ASSERT_EQ(watch.status(), absl::OkStatus());
  ASSERT_TRUE(client->PublishShard(publisher.id(), 1, Soon()).ok());
  ASSERT_EQ((*watch)->Next(Soon())->version, Version(1));
  const auto lease = client->AcquireLease(receiver.id(), Version(1), Soon());
  ASSERT_EQ(lease.status(), absl::OkStatus());

  one.Stop();
  EXPECT_EQ(client->RenewLease(lease->lease_id, Soon()), absl::OkStatus());
  EXPECT_EQ(client->ReleaseLease(lease->lease_id, true, "", Soon()),
            absl::OkStatus());
  EXPECT_EQ(publisher.attachment->Health(), absl::OkStatus());
  EXPECT_EQ(receiver.attachment->Health(), absl::OkStatus());
  EXPECT_EQ(client->BeginUpdate(publisher.id(), Soon()).status(),
            absl::OkStatus());
  ASSERT_TRUE(client->PublishShard(publisher.id(), 2, Soon()).ok());
  auto record = (*watch)->Next(Soon());
  while (record.ok() && record->version != Version(2)) {
    record = (*watch)->Next(Soon());
  }
  EXPECT_EQ(record.status(), absl::OkStatus());

  // And back, while an update waits for a lease.
  const auto second = client->AcquireLease(receiver.id(), Version(2), Soon());
  ASSERT_EQ(second.status(), absl::OkStatus());
  one.Start();
  absl::StatusOr<int64_t> revoked = -1;
  std::thread update(
      [&] { revoked = client->BeginUpdate(publisher.id(), Soon()); });
  while (one.store().ListVersions(kModel, Soon())->back().state !=
         VersionState::kRetiring) {
  }
  two.Stop();
  EXPECT_EQ(client->ReleaseLease(second->lease_id, true, "", Soon()),
            absl::OkStatus());
  update.join();
  ASSERT_EQ(revoked.status(), absl::OkStatus());
  EXPECT_EQ(*revoked, 0);
  const auto workers = client->ListWorkers(kModel, Soon());
  ASSERT_EQ(workers->size(), 2u);
  for (const WorkerRecord& worker : *workers) EXPECT_TRUE(worker.alive);
  // The end of an attachment is still the end of its worker.
  publisher.attachment.reset();
  EXPECT_EQ(client->GetSources(kModel, Soon()).status().code(),
            StatusCode::kNotFound);
}

TEST(FailoverTest, OneServerThatComesBackIsEnough) {
  Catalog catalog(Redis().NewUrl());
  const auto client = Connect(catalog.address());
  const Member publisher = Join(*client, PublisherInfo(0, 1));
  ASSERT_TRUE(client->PublishShard(publisher.id(), 1, Soon()).ok());
  catalog.Stop();
  absl::StatusOr<VersionRecord> published = absl::UnknownError("not published");
  std::thread call(
      [&] { published = client->PublishShard(publisher.id(), 2, Soon()); });
  catalog.Start();
  call.join();
  ASSERT_EQ(published.status(), absl::OkStatus());
  EXPECT_EQ(published->state, VersionState::kReady);
  EXPECT_EQ(publisher.attachment->Health(), absl::OkStatus());
}

// Nothing of a memory store is left: the worker must register anew.
TEST(FailoverTest, AnotherCatalogAtTheSameAddressKnowsNobody) {
  auto store = MakeMemoryStore();
  auto server = CatalogServer::Start("127.0.0.1:0", store.get());
  ASSERT_EQ(server.status(), absl::OkStatus());
  const std::string address = absl::StrCat("127.0.0.1:", (*server)->port());
  const auto client = Connect(address);
  const Member receiver = Join(*client, ReceiverInfo());
  server->reset();
  store = MakeMemoryStore();
  auto again = CatalogServer::Start(address, store.get());
  ASSERT_EQ(again.status(), absl::OkStatus());
  EXPECT_EQ(receiver.attachment->Health().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(client->Register(ReceiverInfo(), "", Soon()).ok());
  // A release that this catalog has not seen is not taken for done.
  EXPECT_EQ(client->ReleaseLease("l1", true, "", Soon()).code(),
            StatusCode::kNotFound);
}

// A catalog that runs, and whose workers cannot come back.
class Refusing : public ForwardingStore {
 public:
  Refusing() : ForwardingStore(MakeMemoryStore()) {}
  absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration&, base::Deadline) override {
    return absl::UnavailableError("its store is away");
  }
};

// That is what a call says that waited for it in vain: not that time is up.
TEST(FailoverTest, ACallWhoseWorkerCannotComeBackSaysWhy) {
  std::unique_ptr<CatalogStore> store = MakeMemoryStore();
  auto server = CatalogServer::Start("127.0.0.1:0", store.get());
  ASSERT_EQ(server.status(), absl::OkStatus());
  const std::string address = absl::StrCat("127.0.0.1:", (*server)->port());
  const auto client = Connect(address);
  const Member receiver = Join(*client, ReceiverInfo());
  server->reset();
  store = std::make_unique<Refusing>();
  auto again = CatalogServer::Start(address, store.get());
  ASSERT_EQ(again.status(), absl::OkStatus());
  // The first one may be what finds the broken link, or end before the worker
  // has tried to come back.
  const base::Deadline patience = Soon();
  absl::Status status;
  do {
    status = client
                 ->AcquireLease(
                     receiver.id(), Version(1),
                     base::Deadline::After(std::chrono::milliseconds(500)))
                 .status();
  } while (absl::IsDeadlineExceeded(status) && !patience.Passed());
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status;
}

// Its updates end when the test lets them.
class Hanging : public ForwardingStore {
 public:
  Hanging() : ForwardingStore(MakeMemoryStore()) {}
  absl::StatusOr<int64_t> BeginUpdate(const std::string&,
                                      base::Deadline) override {
    const std::lock_guard wait(hangs);
    return 0;
  }
  std::mutex hangs;
};

TEST(FailoverTest, ACatalogThatHangsHoldsUpNoTrainer) {
  Hanging store;
  auto server = CatalogServer::Start("127.0.0.1:0", &store);
  ASSERT_EQ(server.status(), absl::OkStatus());
  auto client =
      MakeGrpcClient(absl::StrCat("127.0.0.1:", (*server)->port()),
                     {.reconnect_within = std::chrono::milliseconds(300)});
  ASSERT_EQ(client.status(), absl::OkStatus());
  const Member publisher = Join(**client, PublisherInfo(0, 1));
  std::unique_lock hang(store.hangs);
  EXPECT_EQ(
      (*client)
          ->BeginUpdate(publisher.id(),
                        base::Deadline::At(base::Deadline::Clock::time_point()))
          .status()
          .code(),
      StatusCode::kDeadlineExceeded);
  hang.unlock();
  EXPECT_EQ((*client)->BeginUpdate(publisher.id(), Soon()).status(),
            absl::OkStatus());
}

TEST(FailoverTest, WithoutAnyServerACallEnds) {
  auto store = MakeMemoryStore();
  auto server = CatalogServer::Start("127.0.0.1:0", store.get());
  ASSERT_EQ(server.status(), absl::OkStatus());
  const std::string address = absl::StrCat("127.0.0.1:", (*server)->port());
  auto client =
      MakeGrpcClient(absl::StrCat(address, ",127.0.0.1:1"),
                     {.reconnect_within = std::chrono::milliseconds(300)});
  ASSERT_EQ(client.status(), absl::OkStatus());
  const Member receiver = Join(**client, ReceiverInfo());
  server->reset();
  const absl::Status listed = (*client)->ListVersions("", Soon()).status();
  EXPECT_EQ(listed.code(), StatusCode::kUnavailable);
  EXPECT_NE(listed.message().find(address), std::string::npos) << listed;
  EXPECT_EQ(receiver.attachment->Health().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(receiver.attachment->IsOver());
  // A trainer that waits for no lease does not wait for a catalog either.
  EXPECT_EQ((*client)
                ->BeginUpdate(receiver.id(), base::Deadline::Infinite())
                .status()
                .code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(MakeGrpcClient("127.0.0.1:1,127.0.0.1:2").status().code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(MakeGrpcClient(",").status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft::catalog
