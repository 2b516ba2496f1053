// Readers of events that wait, and what an observer of calls is told.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/event.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"

namespace weft::catalog {
namespace {

using ::absl::StatusCode;
using testing::ReceiverInfo;
using testing::Soon;

// A bound, not an expectation: less than the server lets a reader wait.
base::Deadline LongWait() {
  return base::Deadline::After(std::chrono::seconds(25));
}

class Observer : public CallObserver {
 public:
  void OnStart(std::string_view method) override {
    const std::lock_guard lock(mutex_);
    ++started_[std::string(method)];
    changed_.notify_all();
  }
  void OnEnd(std::string_view method, StatusCode code,
             double seconds) override {
    EXPECT_GE(seconds, 0);
    const std::lock_guard lock(mutex_);
    ++ended_[{std::string(method), code}];
    changed_.notify_all();
  }
  void AwaitStarted(const std::string& method, int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, Soon().Remaining(), [&] {
      return started_[method] >= count;
    })) << method;
  }
  void AwaitEnded(const std::string& method, StatusCode code, int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, Soon().Remaining(), [&] {
      return ended_[std::make_pair(method, code)] >= count;
    })) << method;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> started_;
  std::map<std::pair<std::string, StatusCode>, int> ended_;
};

class EventsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CatalogServerOptions options;
    options.observer = &observer_;
    auto server = CatalogServer::Start("127.0.0.1:0", store_.get(), options);
    ASSERT_EQ(server.status(), absl::OkStatus());
    server_ = *std::move(server);
    auto client = MakeGrpcClient(absl::StrCat("127.0.0.1:", server_->port()));
    ASSERT_EQ(client.status(), absl::OkStatus());
    client_ = *std::move(client);
  }

  absl::StatusOr<EventPage> AwaitFirst() {
    return client_->ReadEvents({.from = 1, .wait_until = LongWait()}, Soon());
  }

  Observer observer_;
  std::unique_ptr<CatalogStore> store_ = MakeMemoryStore();
  std::unique_ptr<CatalogServer> server_;
  std::unique_ptr<CatalogStore> client_;
};

TEST_F(EventsTest, AnObserverIsToldOfCalls) {
  ASSERT_TRUE(client_->ListVersions("", Soon()).ok());
  ASSERT_FALSE(client_->AcquireNewestLease("w9", nullptr, Soon()).ok());
  observer_.AwaitEnded("ListVersions", StatusCode::kOk, 1);
  observer_.AwaitEnded("AcquireLease", StatusCode::kNotFound, 1);
  const auto worker = client_->Register(ReceiverInfo(), "", Soon());
  ASSERT_EQ(worker.status(), absl::OkStatus());
  auto attachment = client_->Attach(worker->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  observer_.AwaitStarted("Attach", 1);
  attachment->reset();
  observer_.AwaitStarted("Detach", 1);
}

TEST_F(EventsTest, AReaderThatWaitsDoesNotHoldTheServer) {
  const base::Deadline before = LongWait();
  std::thread reader([this] { AwaitFirst().status().IgnoreError(); });
  observer_.AwaitStarted("ReadEvents", 1);
  server_->Shutdown();
  reader.join();
  EXPECT_FALSE(before.Passed());
}

TEST_F(EventsTest, OneReaderTooManyIsRefusedAndTheOthersAreTold) {
  constexpr int kReaders = 65;
  std::vector<absl::StatusOr<EventPage>> pages(kReaders);
  std::vector<std::thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([this, i, &pages] { pages[i] = AwaitFirst(); });
  }
  observer_.AwaitEnded("ReadEvents", StatusCode::kResourceExhausted, 1);
  ASSERT_TRUE(client_->Register(ReceiverInfo(), "", Soon()).ok());
  int refused = 0;
  for (std::thread& reader : readers) reader.join();
  for (const auto& page : pages) {
    if (absl::IsResourceExhausted(page.status())) {
      ++refused;
      continue;
    }
    ASSERT_EQ(page.status(), absl::OkStatus());
    ASSERT_FALSE(page->events.empty());
    EXPECT_EQ(page->events[0].kind, EventKind::kWorkerRegistered);
  }
  EXPECT_EQ(refused, 1);
}

}  // namespace
}  // namespace weft::catalog
