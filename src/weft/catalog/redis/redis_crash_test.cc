// Redis killed in the middle of calls, servers that go without a word, and
// what is left of it all after a restart.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/redis/redis_connection_internal.h"
#include "weft/catalog/redis/redis_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/redis_process.h"

namespace weft::catalog {
namespace {

using testing::Join;
using testing::kModel;
using testing::Member;
using testing::PublisherInfo;
using testing::ReceiverInfo;
using testing::RedisProcess;
using testing::Soon;
using testing::Version;

std::unique_ptr<CatalogStore> Connect(const std::string& url,
                                      RedisStoreOptions options = {}) {
  auto store = MakeRedisStore(url, options);
  EXPECT_EQ(store.status(), absl::OkStatus());
  return store.ok() ? *std::move(store) : nullptr;
}

VersionState StateOf(CatalogStore& store, const VersionId& version) {
  const auto records = store.ListVersions(kModel, Soon());
  EXPECT_EQ(records.status(), absl::OkStatus());
  for (const VersionRecord& record : *records) {
    if (record.version == version) return record.state;
  }
  ADD_FAILURE() << ToString(version) << " is not known";
  return VersionState::kGone;
}

// Redis's own count, not what the store believes.
int64_t RedisNumber(const RedisProcess& redis, const RedisWords& words) {
  const auto address = ParseRedisUrl(redis.Url("x"));
  const auto connection =
      RedisConnection::Open(*address, std::chrono::seconds(5));
  EXPECT_EQ(connection.status(), absl::OkStatus());
  const auto reply = (*connection)->Ask(words);
  EXPECT_EQ(reply.status(), absl::OkStatus());
  return reply.ok() ? reply->number : -1;
}

TEST(RedisCrashTest, EverythingIsThereAfterRedisAndAllServersWereKilled) {
  RedisProcess redis(/*durable=*/true);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  auto store = Connect(url);
  WorkerInfo info = PublisherInfo(0, 1);
  Member publisher = Join(*store, info);
  Member receiver = Join(*store, ReceiverInfo());
  ASSERT_TRUE(
      store->PublishShard(publisher.registration.worker_id, 7, Soon()).ok());
  const auto lease =
      store->AcquireLease(receiver.registration.worker_id, Version(7), Soon());
  ASSERT_EQ(lease.status(), absl::OkStatus());

  redis.Kill();
  store.reset();  // it cannot say goodbye
  redis.Start();
  store = Connect(url);
  EXPECT_EQ(StateOf(*store, Version(7)), VersionState::kReady);
  const auto again = store->Reattach(publisher.registration, Soon());
  EXPECT_EQ(again.status(), absl::OkStatus());
  const auto receiver_again = store->Reattach(receiver.registration, Soon());
  EXPECT_EQ(receiver_again.status(), absl::OkStatus());
  // A lease from before still counts, and can be given back.
  const auto sources = store->GetSources(kModel, lease->lease_id, Soon());
  ASSERT_EQ(sources.status(), absl::OkStatus());
  EXPECT_EQ(store->ReleaseLease(lease->lease_id, true, "", Soon()),
            absl::OkStatus());
  const auto workers = store->ListWorkers(kModel, Soon());
  ASSERT_EQ(workers.status(), absl::OkStatus());
  ASSERT_EQ(workers->size(), 2u);
  EXPECT_EQ(sources->sources[0].binding, "the binding");
  EXPECT_EQ(
      *store->GetPlacement(sources->sources[0].placement_digest_hex, Soon()),
      "placement");
  // No number comes twice.
  const auto next = store->Register(ReceiverInfo(1), "", Soon());
  EXPECT_GT(next->generation, receiver.registration.generation);
}

TEST(RedisCrashTest, CallsGoOnOverKillsOfRedis) {
  RedisProcess redis(/*durable=*/true);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  const RedisStoreOptions patient{.server_timeout = std::chrono::seconds(60),
                                  .patience = std::chrono::seconds(60),
                                  .entries_a_snapshot = 40};
  const auto one = Connect(url, patient);
  const auto two = Connect(url, patient);
  const Member publisher = Join(*one, PublisherInfo(0, 1));
  std::atomic<bool> done{false};
  std::atomic<uint64_t> published{0};
  std::thread calls([&] {
    for (uint64_t step = 1; step <= 150; ++step) {
      CatalogStore& store = step % 2 == 0 ? *one : *two;
      // Each is done once: a second time would be an error.
      const auto record =
          store.PublishShard(publisher.registration.worker_id, step, Soon());
      EXPECT_EQ(record.status(), absl::OkStatus()) << "step " << step;
      published = step;
    }
    done = true;
  });
  for (uint64_t wanted = 20; wanted <= 120; wanted += 25) {
    while (published < wanted && !done) std::this_thread::yield();
    redis.Kill();
    redis.Start();
  }
  calls.join();
  EXPECT_EQ(StateOf(*one, Version(150)), VersionState::kReady);
  EXPECT_EQ(StateOf(*two, Version(150)), VersionState::kReady);
  EXPECT_EQ(publisher.attachment->Health(), absl::OkStatus());
}

TEST(RedisCrashTest, ARedisThatForgotEverythingIsNoticed) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const auto store = Connect(redis.NewUrl());
  const Member publisher = Join(*store, PublisherInfo(0, 1));
  ASSERT_TRUE(
      store->PublishShard(publisher.registration.worker_id, 1, Soon()).ok());
  auto watch = store->WatchVersions(kModel, Soon());
  ASSERT_EQ((*watch)->Next(Soon())->state, VersionState::kReady);
  redis.Kill();
  redis.Start();
  EXPECT_EQ((*watch)->Next(Soon())->state, VersionState::kGone);
  EXPECT_EQ(publisher.attachment->Health().code(),
            absl::StatusCode::kFailedPrecondition);
  const Member next = Join(*store, PublisherInfo(0, 1));
  EXPECT_GT(next.registration.generation, publisher.registration.generation);
}

TEST(RedisCrashTest, WithoutRedisACallEndsAndSaysSo) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const auto store =
      Connect(redis.NewUrl(), {.patience = std::chrono::milliseconds(200)});
  redis.Kill();
  const absl::Status listed = store->ListVersions("", Soon()).status();
  EXPECT_EQ(listed.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(listed.message().find(absl::StrCat("127.0.0.1:", redis.port())),
            std::string::npos)
      << listed;
  const absl::Status registered =
      store->Register(ReceiverInfo(), "", Soon()).status();
  EXPECT_EQ(registered.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(MakeRedisStore(redis.Url("y"),
                           {.patience = std::chrono::milliseconds(200)})
                .status()
                .code(),
            absl::StatusCode::kUnavailable);
}

TEST(RedisCrashTest, ARedisThatTakesNoWritesIsSaidToBeOne) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const auto store =
      Connect(redis.NewUrl(), {.patience = std::chrono::milliseconds(1500)});
  Member publisher = Join(*store, PublisherInfo(0, 1));
  const auto tell = [&redis](const RedisWords& words) {
    const auto connection = RedisConnection::Open(
        *ParseRedisUrl(redis.Url("x")), std::chrono::seconds(5));
    EXPECT_EQ(connection.status(), absl::OkStatus());
    const auto reply = (*connection)->Ask(words);
    EXPECT_EQ(reply.status(), absl::OkStatus());
    return reply->text;
  };
  // Of a port where nobody is.
  tell({"REPLICAOF", "127.0.0.1", "1"});
  const auto refused = store->PublishShard(publisher.id(), 1, Soon());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(refused.status().message().find("READONLY"), std::string::npos)
      << refused.status();
  // It was asked some 50,000 times meanwhile, each time by a new connection.
  const std::string stats = tell({"INFO", "stats"});
  const std::string name = "total_connections_received:";
  const size_t at = stats.find(name);
  ASSERT_NE(at, std::string::npos) << stats;
  EXPECT_LT(std::atoi(stats.c_str() + at + name.size()), 200);
  tell({"REPLICAOF", "NO", "ONE"});
  EXPECT_EQ(store->PublishShard(publisher.id(), 2, Soon()).status(),
            absl::OkStatus());
}

TEST(RedisCrashTest, APasswordThatIsMissingIsNotWaitedFor) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const auto connection = RedisConnection::Open(*ParseRedisUrl(redis.Url("x")),
                                                std::chrono::seconds(5));
  ASSERT_EQ(connection.status(), absl::OkStatus());
  ASSERT_EQ((*connection)->Ask({"CONFIG", "SET", "requirepass", "p"}).status(),
            absl::OkStatus());
  const auto store =
      MakeRedisStore(redis.NewUrl(), {.patience = std::chrono::hours(1)});
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(store.status().message().find("WEFT_REDIS_PASSWORD"),
            std::string::npos)
      << store.status();
}

TEST(RedisCrashTest, WorkersOfADeadServerMayLiveOnElsewhere) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  // The dying one must not be late with a sign of life before it dies.
  const RedisStoreOptions quick{.attach_within = std::chrono::seconds(2),
                                .server_timeout = std::chrono::seconds(2)};
  auto dying = Connect(url, quick);
  const auto living = Connect(url, quick);
  const Member moves = Join(*dying, PublisherInfo(0, 2));
  const Member stays = Join(*dying, PublisherInfo(1, 2));
  for (const Member* worker : {&moves, &stays}) {
    ASSERT_TRUE(
        dying->PublishShard(worker->registration.worker_id, 3, Soon()).ok());
  }
  const auto again = living->Reattach(moves.registration, Soon());
  ASSERT_EQ(again.status(), absl::OkStatus());
  const auto watch = living->WatchVersions(kModel, Soon());
  EXPECT_EQ((*watch)->Next(Soon())->state, VersionState::kReady);
  dying.reset();
  // The one that did not move dies after its time.
  const auto gone = (*watch)->Next(Soon());
  ASSERT_EQ(gone.status(), absl::OkStatus());
  EXPECT_EQ(gone->state, VersionState::kGone);
  EXPECT_NE(gone->reason.find("publisher rank 1 lost its catalog server"),
            std::string::npos)
      << gone->reason;
  EXPECT_EQ((*again)->Health(), absl::OkStatus());
  EXPECT_EQ(living->Reattach(stays.registration, Soon()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(RedisCrashTest, AnOldAttachmentKillsNobody) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  const auto one = Connect(url);
  const auto two = Connect(url);
  Member worker = Join(*one, PublisherInfo(0, 1));
  Registration wrong = worker.registration;
  ++wrong.generation;
  EXPECT_EQ(two->Reattach(wrong, Soon()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  auto again = two->Reattach(worker.registration, Soon());
  ASSERT_EQ(again.status(), absl::OkStatus());
  EXPECT_EQ(worker.attachment->Health().code(), absl::StatusCode::kUnavailable);
  worker.attachment.reset();
  EXPECT_EQ((*again)->Health(), absl::OkStatus());
  again->reset();
  EXPECT_EQ(one->Reattach(worker.registration, Soon()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// A server that ends waits for its calls: for a minute once, until the lease
// ended that the update waited for.
TEST(RedisCrashTest, AnUpdateOfAWorkerThatHasMovedWaitsForNobody) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  const auto one = Connect(url);
  const auto two = Connect(url);
  Member publisher = Join(*one, PublisherInfo(0, 1));
  const Member receiver = Join(*two, ReceiverInfo());
  ASSERT_TRUE(one->PublishShard(publisher.id(), 1, Soon()).ok());
  ASSERT_TRUE(two->AcquireLease(receiver.id(), Version(1), Soon()).ok());
  absl::StatusOr<int64_t> revoked = -1;
  std::thread update([&] {
    revoked = one->BeginUpdate(publisher.id(), base::Deadline::Infinite());
  });
  while (StateOf(*two, Version(1)) != VersionState::kRetiring) {
  }
  const auto moved = two->Reattach(publisher.registration, Soon());
  EXPECT_EQ(moved.status(), absl::OkStatus());
  publisher.attachment.reset();
  update.join();
  EXPECT_EQ(revoked.status().code(), absl::StatusCode::kUnavailable)
      << revoked.status();
  EXPECT_EQ(StateOf(*two, Version(1)), VersionState::kRetiring);
}

// Once the update ended before Redis had heard of the death, with an error that
// asks to try again.
TEST(RedisCrashTest, AnUpdateOfADeadWorkerSaysThatItIsDead) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const auto store = Connect(redis.NewUrl());
  Member publisher = Join(*store, PublisherInfo(0, 1));
  const Member receiver = Join(*store, ReceiverInfo());
  ASSERT_TRUE(store->PublishShard(publisher.id(), 1, Soon()).ok());
  ASSERT_TRUE(store->AcquireLease(receiver.id(), Version(1), Soon()).ok());
  std::future<absl::StatusOr<int64_t>> update =
      std::async(std::launch::async, [&] {
        return store->BeginUpdate(publisher.id(), base::Deadline::Infinite());
      });
  while (StateOf(*store, Version(1)) != VersionState::kRetiring) {
  }
  redis.Signal(SIGSTOP);
  std::thread death([&] { publisher.attachment.reset(); });
  EXPECT_EQ(update.wait_for(std::chrono::milliseconds(200)),
            std::future_status::timeout);
  redis.Signal(SIGCONT);
  death.join();
  const auto revoked = update.get();
  EXPECT_EQ(revoked.status().code(), absl::StatusCode::kFailedPrecondition)
      << revoked.status();
}

TEST(RedisCrashTest, APublisherThatLostItsAnswerAsksAgain) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const auto store = Connect(redis.NewUrl());
  const Member worker = Join(*store, PublisherInfo(0, 1));
  const std::string& id = worker.registration.worker_id;
  ASSERT_TRUE(store->PublishShard(id, 5, Soon()).ok());
  EXPECT_FALSE(store->PublishShard(id, 5, Soon()).ok());
  const auto again = store->RepublishShard(id, 5, Soon());
  ASSERT_EQ(again.status(), absl::OkStatus());
  EXPECT_EQ(again->state, VersionState::kReady);
  EXPECT_FALSE(store->RepublishShard(id, 4, Soon()).ok());
  EXPECT_EQ(store->RepublishShard(id, 6, Soon())->version, Version(6));
}

TEST(RedisCrashTest, AServerThatStoodStillTakesItsWorkersBack) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  const auto store = Connect(url);
  const Member worker = Join(*store, PublisherInfo(0, 1));
  ASSERT_TRUE(
      store->PublishShard(worker.registration.worker_id, 1, Soon()).ok());
  // Another server that is much quicker to give others up.
  const auto hasty =
      Connect(url, {.server_timeout = std::chrono::milliseconds(100)});
  const auto deadline = Soon();
  const auto address = ParseRedisUrl(url);
  // What a server that stands still looks like: its key goes.
  while (RedisNumber(redis, {"XLEN", address->prefix + ":log"}) < 12 &&
         !deadline.Passed()) {
    RedisNumber(redis, {"EVAL",
                        "for _, k in ipairs(redis.call('KEYS', ARGV[1])) do "
                        "redis.call('DEL', k) end return 0",
                        "0", address->prefix + ":server:*"});
  }
  ASSERT_FALSE(deadline.Passed());
  absl::Status health = worker.attachment->Health();
  while (absl::IsUnavailable(health) && !deadline.Passed()) {
    health = worker.attachment->Health();
  }
  EXPECT_EQ(health, absl::OkStatus());
  EXPECT_EQ(StateOf(*hasty, Version(1)), VersionState::kReady);
}

TEST(RedisCrashTest, RedisStaysSmall) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  const std::string url = redis.NewUrl();
  const auto store = Connect(url, {.entries_a_snapshot = 100});
  const Member worker = Join(*store, PublisherInfo(0, 1));
  const auto address = ParseRedisUrl(url);
  for (uint64_t step = 1; step <= 2000; ++step) {
    ASSERT_TRUE(
        store->PublishShard(worker.registration.worker_id, step, Soon()).ok());
  }
  // Two snapshots' worth of entries, and what came while one was written.
  EXPECT_LT(RedisNumber(redis, {"XLEN", address->prefix + ":log"}), 400);
  // Log, snapshot, options, one server, one placement.
  EXPECT_EQ(RedisNumber(redis, {"DBSIZE"}), 5);
  // A server that starts now reads the snapshot and what follows.
  const auto late = Connect(url);
  EXPECT_EQ(StateOf(*late, Version(2000)), VersionState::kReady);
  const auto versions = late->ListVersions(kModel, Soon());
  EXPECT_EQ(versions->size(), 17u);
}

TEST(RedisCrashTest, WhatIsNoCatalogIsRefused) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  for (const char* url :
       {"redis://", "redis://h:0", "redis://h:70000", "http://h", "redis://h/ ",
        "redis://:secret@h", "redis://h:x"}) {
    EXPECT_EQ(MakeRedisStore(url).status().code(),
              absl::StatusCode::kInvalidArgument)
        << url;
  }
  RedisNumber(redis, {"SET", "a:options", "strange"});
  RedisNumber(redis, {"LPUSH", "b:options", "strange"});
  RedisNumber(redis, {"HSET", "c:snapshot", "id", "1-1", "state", "strange"});
  for (const std::string prefix : {"a", "b", "c"}) {
    const absl::Status status = MakeRedisStore(redis.Url(prefix)).status();
    EXPECT_FALSE(status.ok());
    EXPECT_FALSE(absl::IsUnavailable(status)) << prefix << ": " << status;
  }
  // An entry of somebody else in the log does nothing.
  const auto store = Connect(redis.Url("d"));
  RedisNumber(redis, {"XADD", "d:log", "*", "c", "strange"});
  RedisNumber(redis, {"XADD", "d:log", "*", "other", "1", "more", "2"});
  EXPECT_TRUE(store->Register(ReceiverInfo(), "", Soon()).ok());
}

}  // namespace
}  // namespace weft::catalog
