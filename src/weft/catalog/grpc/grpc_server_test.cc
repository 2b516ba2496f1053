// What only a connection can do: break, hang, be refused.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/forwarding_store.h"
#include "weft/catalog/testing/valve.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

using ::absl::StatusCode;
using testing::kModel;
using testing::PublisherInfo;
using testing::ReceiverInfo;
using testing::Soon;
using testing::Version;

// A server of a memory store, at the same address after each Start.
class ServerAndClient {
 public:
  ServerAndClient() {
    Start();
    auto client = MakeGrpcClient(address());
    EXPECT_EQ(client.status(), absl::OkStatus());
    if (client.ok()) client_ = *std::move(client);
  }

  void Start() {
    store_ = MakeMemoryStore();
    auto server = CatalogServer::Start(address(), store_.get());
    ASSERT_EQ(server.status(), absl::OkStatus());
    server_ = *std::move(server);
    port_ = server_->port();
  }
  void Stop() { server_.reset(); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  CatalogStore& store() { return *store_; }
  CatalogStore& client() { return *client_; }
  CatalogServer& server() { return *server_; }

  std::string Put() {
    const std::string digest = manifest::DigestOf("placement").ToHex();
    EXPECT_EQ(client().PutPlacement(digest, "placement", Soon()),
              absl::OkStatus());
    return digest;
  }

 private:
  int port_ = 0;
  std::unique_ptr<CatalogStore> store_;
  std::unique_ptr<CatalogServer> server_;
  std::unique_ptr<CatalogStore> client_;
};

// A socket that listens and never answers.
class SilentPort {
 public:
  SilentPort() : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(listen(socket_, 8), 0);
    EXPECT_EQ(
        getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    port_ = ntohs(address.sin_port);
  }
  ~SilentPort() { close(socket_); }
  int port() const { return port_; }

 private:
  int socket_;
  int port_ = 0;
};

TEST(GrpcServerTest, NobodyAnswers) {
  int free_port = 0;
  {
    const SilentPort silent;
    free_port = silent.port();
    const std::string address = absl::StrCat("127.0.0.1:", silent.port());
    const auto client = MakeGrpcClient(
        address, {.connect_timeout = std::chrono::milliseconds(100)});
    EXPECT_EQ(client.status().code(), StatusCode::kUnavailable);
  }
  const std::string address = absl::StrCat("127.0.0.1:", free_port);
  const auto client =
      MakeGrpcClient(address, {.connect_timeout = std::chrono::seconds(60)});
  EXPECT_EQ(client.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(
      client.status().message(),
      absl::StrCat("no catalog answers at ", address,
                   " (start one with: weft catalog --listen ", address, ")"));
}

// Over a link that loses packets a connection may take seconds: only a refusal
// says that nobody is there.
TEST(GrpcServerTest, ASilentAttemptToConnectIsMadeAgain) {
  const auto store = MakeMemoryStore();
  const auto server = CatalogServer::Start("127.0.0.1:0", store.get());
  ASSERT_EQ(server.status(), absl::OkStatus());
  testing::Valve valve((*server)->port(), /*num_silent=*/1);
  const auto client =
      MakeGrpcClient(absl::StrCat("127.0.0.1:", valve.port()),
                     {.connect_timeout = std::chrono::seconds(60)});
  ASSERT_EQ(client.status(), absl::OkStatus());
  EXPECT_EQ((*client)->ListVersions("", testing::Soon()).status(),
            absl::OkStatus());
}

TEST(GrpcServerTest, ListensWhereItIsTold) {
  const auto store = MakeMemoryStore();
  for (const char* bad : {"", "localhost", "localhost:", "localhost:x",
                          "localhost:65536", "localhost:-1", "\xff:\xff"}) {
    EXPECT_EQ(CatalogServer::Start(bad, store.get()).status().code(),
              StatusCode::kInvalidArgument)
        << bad;
  }
  const auto server = CatalogServer::Start(":0", store.get());
  ASSERT_EQ(server.status(), absl::OkStatus());
  EXPECT_GT((*server)->port(), 0);
  const std::string address = absl::StrCat("127.0.0.1:", (*server)->port());
  EXPECT_TRUE(MakeGrpcClient(address).ok());
  const absl::Status taken =
      CatalogServer::Start(address, store.get()).status();
  EXPECT_EQ(taken.code(), StatusCode::kAlreadyExists);
  EXPECT_NE(taken.message().find(address), std::string::npos);
}

TEST(GrpcServerTest, EverythingIsUnavailableWhenTheServerHasGone) {
  ServerAndClient pair;
  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = pair.Put();
  const auto worker = pair.client().Register(info, "", Soon());
  const auto attachment = pair.client().Attach(worker->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  const auto watch = pair.client().WatchVersions(kModel, Soon());
  ASSERT_EQ(watch.status(), absl::OkStatus());
  EXPECT_EQ((*attachment)->Health(), absl::OkStatus());
  pair.Stop();

  CatalogStore& client = pair.client();
  const std::string& id = worker->worker_id;
  const std::vector<absl::Status> results = {
      (*watch)->Next(Soon()).status(),
      (*attachment)->Health(),
      client.PutPlacement(info.placement_digest_hex, "placement", Soon()),
      client.GetPlacement(info.placement_digest_hex, Soon()).status(),
      client.Register(info, "", Soon()).status(),
      client.Attach(id, Soon()).status(),
      client.PublishShard(id, 1, Soon()).status(),
      client.BeginUpdate(id, Soon()).status(),
      client.WatchVersions(kModel, Soon()).status(),
      client.GetSources(kModel, Soon()).status(),
      client.AcquireLease(id, Version(1), Soon()).status(),
      client.RenewLease("l1", Soon()),
      client.ReleaseLease("l1", true, "", Soon()),
      client.ListVersions("", Soon()).status(),
      client.ListWorkers("", Soon()).status(),
      WaitForReady(client, kModel, nullptr, nullptr, Soon()).status(),
  };
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].code(), StatusCode::kUnavailable)
        << i << ": " << results[i];
    EXPECT_NE(results[i].message().find(pair.address()), std::string::npos)
        << results[i];
  }
}

TEST(GrpcServerTest, ARestartedServerIsFoundAgainButForgetsWorkers) {
  ServerAndClient pair;
  const auto before = pair.client().Register(ReceiverInfo(), "", Soon());
  const auto attachment = pair.client().Attach(before->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  pair.Stop();
  pair.Start();
  const base::Deadline deadline = Soon();
  absl::StatusOr<Registration> after;
  do {
    after = pair.client().Register(ReceiverInfo(), "", deadline);
  } while (absl::IsUnavailable(after.status()) && !deadline.Passed());
  ASSERT_EQ(after.status(), absl::OkStatus());
  EXPECT_EQ((*attachment)->Health().code(), StatusCode::kUnavailable);
  EXPECT_EQ(pair.client().Attach(before->worker_id, Soon()).status().code(),
            StatusCode::kNotFound);
  EXPECT_TRUE(pair.client().Attach(after->worker_id, Soon()).ok());
}

// Between calls the client's thread of streams does not poll all the time.
TEST(GrpcServerTest, TheEndOfAnAttachmentIsSeenWhileNobodyCalls) {
  ServerAndClient pair;
  const auto worker = pair.client().Register(ReceiverInfo(), "", Soon());
  const auto attachment = pair.client().Attach(worker->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  EXPECT_FALSE((*attachment)->IsOver());
  pair.Stop();
  const base::Deadline deadline = Soon();
  while (!(*attachment)->IsOver() && !deadline.Passed()) {
    std::this_thread::yield();
  }
  EXPECT_TRUE((*attachment)->IsOver());
}

TEST(GrpcServerTest, ShutdownEndsStreamsAndWaits) {
  ServerAndClient pair;
  std::vector<std::unique_ptr<VersionWatch>> watches;
  for (int i = 0; i < 64; ++i) {
    auto watch = pair.client().WatchVersions(kModel, Soon());
    ASSERT_EQ(watch.status(), absl::OkStatus());
    watches.push_back(*std::move(watch));
  }
  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = pair.Put();
  const auto publisher = pair.client().Register(info, "", Soon());
  const auto receiver = pair.client().Register(ReceiverInfo(), "", Soon());
  const auto one = pair.client().Attach(publisher->worker_id, Soon());
  const auto two = pair.client().Attach(receiver->worker_id, Soon());
  ASSERT_TRUE(pair.client().PublishShard(publisher->worker_id, 1, Soon()).ok());
  ASSERT_TRUE(
      pair.client().AcquireLease(receiver->worker_id, Version(1), Soon()).ok());
  absl::Status updated;
  std::thread update([&] {
    updated = pair.client().BeginUpdate(publisher->worker_id, Soon()).status();
  });
  while (watches[0]->Next(Soon())->state != VersionState::kRetiring) {
  }
  pair.server().Shutdown();
  update.join();
  EXPECT_FALSE(updated.ok());
  for (const auto& watch : watches) {
    absl::Status end;
    while (end.ok()) end = watch->Next(Soon()).status();
    EXPECT_EQ(end.code(), StatusCode::kUnavailable) << end;
  }
  EXPECT_EQ(pair.store().ListVersions(kModel, Soon())->at(0).state,
            VersionState::kGone);
}

TEST(GrpcServerTest, HundredsOfWorkersHoldTheirStreams) {
  ServerAndClient pair;
  constexpr int kWorkers = 200;
  std::vector<std::unique_ptr<Attachment>> attachments;
  std::vector<std::unique_ptr<VersionWatch>> watches;
  for (int i = 0; i < kWorkers; ++i) {
    const auto worker = pair.client().Register(ReceiverInfo(), "", Soon());
    ASSERT_EQ(worker.status(), absl::OkStatus());
    auto attachment = pair.client().Attach(worker->worker_id, Soon());
    ASSERT_EQ(attachment.status(), absl::OkStatus());
    attachments.push_back(*std::move(attachment));
    auto watch = pair.client().WatchVersions(kModel, Soon());
    ASSERT_EQ(watch.status(), absl::OkStatus());
    watches.push_back(*std::move(watch));
  }
  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = pair.Put();
  const auto publisher = pair.client().Register(info, "", Soon());
  const auto attachment = pair.client().Attach(publisher->worker_id, Soon());
  ASSERT_TRUE(pair.client().PublishShard(publisher->worker_id, 1, Soon()).ok());
  for (const auto& watch : watches) {
    const auto record = watch->Next(Soon());
    ASSERT_EQ(record.status(), absl::OkStatus());
    EXPECT_EQ(record->version, Version(1));
  }
}

TEST(GrpcServerTest, LargePlacementsAndBindingsPass) {
  ServerAndClient pair;
  // More than the 4 MiB that gRPC takes unless told.
  const std::string placement(8 << 20, 'p');
  const std::string digest = manifest::DigestOf(placement).ToHex();
  ASSERT_EQ(pair.client().PutPlacement(digest, placement, Soon()),
            absl::OkStatus());
  EXPECT_EQ(*pair.client().GetPlacement(digest, Soon()), placement);
  const std::string binding(int64_t{64 << 20} + 1, 'b');
  EXPECT_EQ(
      pair.client().Register(ReceiverInfo(), binding, Soon()).status().code(),
      StatusCode::kInvalidArgument);
}

// Forwards to a memory store, but ListVersions waits for Release, and errors
// of Register can be chosen.
class StuckStore : public ForwardingStore {
 public:
  StuckStore() : ForwardingStore(MakeMemoryStore()) {}
  void Release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  absl::Status register_status;

  absl::StatusOr<Registration> Register(const WorkerInfo&, const std::string&,
                                        base::Deadline) override {
    return register_status;
  }
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return released_; });
    return ForwardingStore::ListVersions(model, deadline);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool released_ = false;
};

TEST(GrpcServerTest, TheClientsDeadlineEndsACallThatHangs) {
  StuckStore store;
  const auto server = CatalogServer::Start("127.0.0.1:0", &store);
  ASSERT_EQ(server.status(), absl::OkStatus());
  const auto client =
      MakeGrpcClient(absl::StrCat("127.0.0.1:", (*server)->port()));
  ASSERT_EQ(client.status(), absl::OkStatus());
  const absl::Status status =
      (*client)
          ->ListVersions("",
                         base::Deadline::After(std::chrono::milliseconds(50)))
          .status();
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("listing versions"), std::string::npos);
  store.Release();
}

class DeadlineStore : public ForwardingStore {
 public:
  DeadlineStore() : ForwardingStore(MakeMemoryStore()) {}

  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override {
    given = deadline;
    return ForwardingStore::ListVersions(model, deadline);
  }

  base::Deadline given = base::Deadline::Infinite();
};

// Who asked a store whose Redis was away was told that the catalog had not
// answered: both gave up at once.
TEST(GrpcServerTest, TheStoreGivesUpBeforeTheClientDoes) {
  DeadlineStore store;
  const auto server = CatalogServer::Start("127.0.0.1:0", &store);
  ASSERT_EQ(server.status(), absl::OkStatus());
  const auto client =
      MakeGrpcClient(absl::StrCat("127.0.0.1:", (*server)->port()));
  ASSERT_EQ(client.status(), absl::OkStatus());
  // gRPC rounds what is longer to a few seconds.
  const auto begin = base::Deadline::Clock::now();
  const base::Deadline mine =
      base::Deadline::At(begin + std::chrono::seconds(30));
  ASSERT_EQ((*client)->ListVersions("", mine).status(), absl::OkStatus());
  EXPECT_LT(store.given.when(), mine.when());
  EXPECT_GT(store.given.when(), begin + std::chrono::seconds(20));
}

TEST(GrpcServerTest, StatusesComeBackAsTheyWere) {
  StuckStore store;
  const auto server = CatalogServer::Start("127.0.0.1:0", &store);
  ASSERT_EQ(server.status(), absl::OkStatus());
  const auto client =
      MakeGrpcClient(absl::StrCat("127.0.0.1:", (*server)->port()));
  ASSERT_EQ(client.status(), absl::OkStatus());
  for (int code = 1; code <= 16; ++code) {
    const std::string text =
        absl::StrCat("code ", code, " of \"m\", 50% \xc3\xa9\n\ttab");
    store.register_status = absl::Status(static_cast<StatusCode>(code), text);
    absl::Status expected = store.register_status;
    if (absl::IsResourceExhausted(expected)) {
      expected.SetPayload(kCatalogLimitPayload, absl::Cord());
    }
    EXPECT_EQ((*client)->Register(ReceiverInfo(), "", Soon()).status(),
              expected);
  }
  store.register_status = absl::InternalError(std::string(100000, '\xff'));
  EXPECT_EQ((*client)->Register(ReceiverInfo(), "", Soon()).status(),
            absl::InternalError(std::string(4096, '\xff')));
}

}  // namespace
}  // namespace weft::catalog
