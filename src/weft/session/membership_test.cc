// Workers that lose their place in the catalog, or work longer than a lease
// lasts, and go on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
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
#include "weft/catalog/testing/forwarding_store.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using ::testing::HasSubstr;

using catalog::Role;
using catalog::VersionRecord;
using catalog::VersionState;
using catalog::WorkerRecord;
using testing::BytesOf;
using testing::ColumnCut;
using testing::Expected;
using testing::FillPlain;
using testing::Soon;
using testing::Trainer;

class MembershipTest : public testing::PlainSession {
 protected:
  // Asks again and again until `holds` of what is listed; the last answer.
  std::vector<WorkerRecord> AwaitWorkers(
      catalog::CatalogStore& store,
      const std::function<bool(const std::vector<WorkerRecord>&)>& holds) {
    const base::Deadline deadline = Soon();
    std::vector<WorkerRecord> workers;
    while (!deadline.Passed()) {
      workers = *store.ListWorkers("m", deadline);
      if (holds(workers)) return workers;
      std::this_thread::yield();
    }
    ADD_FAILURE() << "the workers never came to be as wanted";
    return workers;
  }

  static int64_t Alive(const std::vector<WorkerRecord>& workers, Role role) {
    return std::count_if(workers.begin(), workers.end(),
                         [&](const WorkerRecord& worker) {
                           return worker.alive && worker.info.role == role;
                         });
  }
};

// A catalog in memory, on the same port in each of its lives.
class Catalog {
 public:
  Catalog() { Start("127.0.0.1:0"); }
  void Restart() {
    server_.reset();
    memory_ = catalog::MakeMemoryStore();
    Start(address_);
  }
  std::shared_ptr<catalog::CatalogStore> Connect() {
    return *catalog::MakeGrpcClient(
        address_, {.reconnect_within = std::chrono::seconds(10)});
  }
  catalog::CatalogStore& memory() { return *memory_; }

 private:
  void Start(const std::string& listen) {
    auto server = catalog::CatalogServer::Start(listen, memory_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
  }

  std::unique_ptr<catalog::CatalogStore> memory_ = catalog::MakeMemoryStore();
  std::unique_ptr<catalog::CatalogServer> server_;
  std::string address_;
};

// Apart for the sanitizer of threads, to which gRPC is one long race.
class RestartOverGrpcTest : public MembershipTest {};

TEST_P(RestartOverGrpcTest, ARestartedCatalogIsToldAllAgain) {
  Catalog catalog;
  store_ = catalog.Connect();
  StartTrainers(2);
  PublishAll(1);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 37, 101));
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  const uint64_t before = trainers_[0]->publisher->generation();

  catalog.Restart();
  // Nobody calls a publisher or the first engine: a new engine finds what the
  // trainers' memory holds.
  Engine late = StartEngine(ColumnCut(kRows, kCols, 0, 40));
  const auto found = late.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->version.step, 1u);
  EXPECT_EQ(BytesOf(late.owned), Expected(late.placement, 1));
  EXPECT_GT(trainers_[0]->publisher->generation(), before);
  EXPECT_TRUE(trainers_[1]->publisher->Health().ok());
  // The first engine is there again, with what it serves.
  AwaitWorkers(catalog.memory(), [](const std::vector<WorkerRecord>& workers) {
    return std::count_if(workers.begin(), workers.end(),
                         [](const WorkerRecord& worker) {
                           return worker.info.role == Role::kReceiver &&
                                  worker.committed.step == 1;
                         }) == 2;
  });

  PublishAll(2);
  const auto next = engine.receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->version.step, 2u);
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 2));
}

TEST_P(RestartOverGrpcTest, MemoryThatIsBeingWrittenIsNotPublishedAgain) {
  Catalog catalog;
  store_ = catalog.Connect();
  StartTrainers(2);
  PublishAll(1);
  Trainer& writing = *trainers_[0];
  ASSERT_TRUE(writing.publisher->BeginUpdate(Soon()).ok());
  FillPlain(writing.placement, writing.owned.memory, 2);
  catalog.Restart();
  // Both are there again, and rank 1 has published what it holds.
  AwaitWorkers(catalog.memory(), [](const std::vector<WorkerRecord>& workers) {
    return Alive(workers, Role::kPublisher) == 2;
  });
  std::vector<VersionRecord> versions;
  const base::Deadline deadline = Soon();
  while (versions.empty() && !deadline.Passed()) {
    versions = *catalog.memory().ListVersions("m", deadline);
  }
  ASSERT_EQ(versions.size(), 1u);
  EXPECT_EQ(versions[0].version.step, 1u);
  EXPECT_EQ(versions[0].state, VersionState::kStaging);
  EXPECT_EQ(versions[0].ranks_published, 1);
  // Its update ends as if nothing had been.
  ASSERT_TRUE(writing.publisher->Publish(2, Soon()).ok());
  Trainer& other = *trainers_[1];
  ASSERT_TRUE(other.publisher->BeginUpdate(Soon()).ok());
  FillPlain(other.placement, other.owned.memory, 2);
  ASSERT_TRUE(other.publisher->Publish(2, Soon()).ok());
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, kCols));
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->version.step, 2u);
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 2));
}

// What a publisher could not tell anybody is in its memory, but not what it has
// published last: neither is published again.
TEST_P(RestartOverGrpcTest, MemoryBeyondWhatWasPublishedIsNotPublishedAgain) {
  Catalog catalog;
  store_ = catalog.Connect();
  StartTrainers(1);
  PublishAll(1);
  Trainer& trainer = *trainers_[0];
  ASSERT_TRUE(trainer.publisher->BeginUpdate(Soon()).ok());
  FillPlain(trainer.placement, trainer.owned.memory, 2);
  // Time is up when the memory has been digested.
  ASSERT_FALSE(
      trainer.publisher
          ->Publish(2, base::Deadline::At(base::Deadline::Clock::time_point()))
          .ok());
  catalog.Restart();
  AwaitWorkers(catalog.memory(), [](const std::vector<WorkerRecord>& workers) {
    return Alive(workers, Role::kPublisher) == 1;
  });
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, kCols));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      engine.receiver
          ->Refit(nullptr, false,
                  base::Deadline::After(std::chrono::milliseconds(800)))
          .status()));
  PublishAll(3);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 3));
}

// An attachment that a test can cut, as a reset does to the connection of a
// process that lives on.
class Severable : public catalog::Attachment {
 public:
  explicit Severable(std::unique_ptr<catalog::Attachment> inner)
      : inner_(std::move(inner)) {}
  absl::Status Health() override {
    const std::lock_guard lock(mutex_);
    return inner_ == nullptr
               ? absl::FailedPreconditionError("the connection was reset")
               : inner_->Health();
  }
  bool IsOver() override { return !Health().ok(); }
  void Sever() {
    const std::lock_guard lock(mutex_);
    inner_.reset();
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<catalog::Attachment> inner_;
};

class SeverableStore : public catalog::ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;
  absl::StatusOr<std::unique_ptr<catalog::Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override {
    auto attached = ForwardingStore::Attach(worker_id, deadline);
    if (!attached.ok()) return attached;
    auto severable = std::make_shared<Severable>(*std::move(attached));
    const std::lock_guard lock(mutex_);
    all_.push_back(severable);
    return std::make_unique<Shared>(std::move(severable));
  }
  // All that there are by now.
  void SeverAll() {
    std::vector<std::weak_ptr<Severable>> all;
    {
      const std::lock_guard lock(mutex_);
      all = std::exchange(all_, {});
    }
    for (const auto& each : all) {
      if (const auto severable = each.lock()) severable->Sever();
    }
  }

 private:
  class Shared : public catalog::Attachment {
   public:
    explicit Shared(std::shared_ptr<Severable> inner)
        : inner_(std::move(inner)) {}
    absl::Status Health() override { return inner_->Health(); }
    bool IsOver() override { return inner_->IsOver(); }

   private:
    const std::shared_ptr<Severable> inner_;
  };
  std::mutex mutex_;
  std::vector<std::weak_ptr<Severable>> all_;
};

TEST_P(MembershipTest, WorkersWhoseConnectionsBreakComeBack) {
  const auto severable = std::make_shared<SeverableStore>(store_);
  store_ = severable;
  StartTrainers(2);
  PublishAll(1);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 37, 101));
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  for (uint64_t step = 2; step <= 4; ++step) {
    severable->SeverAll();
    PublishAll(step);
    Poison(engine);
    const auto report = engine.receiver->Refit(nullptr, true, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->version.step, step);
    EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, step));
  }
  // This catalog has not forgotten what was withdrawn: that stays so.
  severable->SeverAll();
  AwaitWorkers(*store_, [](const std::vector<WorkerRecord>& workers) {
    return Alive(workers, Role::kPublisher) == 2 &&
           Alive(workers, Role::kReceiver) == 1;
  });
  const auto versions = store_->ListVersions("m", Soon());
  ASSERT_TRUE(versions.ok()) << versions.status();
  for (const VersionRecord& each : *versions) {
    EXPECT_EQ(each.state, VersionState::kGone)
        << catalog::ToString(each.version);
  }
  PublishAll(5);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, true, Soon()).ok());
}

TEST_P(MembershipTest, ARefitWhoseReceiverIsLostFailsAndTheNextOneHeals) {
  const auto severable = std::make_shared<SeverableStore>(store_);
  StartTrainers(1);  // by connections of their own
  PublishAll(1);
  store_ = severable;
  bool severs = true;
  Engine engine = StartEngine(
      ColumnCut(kRows, kCols, 37, 101), false, [&](ReceiverOptions& options) {
        options.derive_hook = [&](const catalog::VersionId&) {
          if (severs) severable->SeverAll();
          return absl::OkStatus();
        };
      });
  const auto lost = engine.receiver->Refit(nullptr, false, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(lost.status())) << lost.status();
  EXPECT_TRUE(engine.receiver->fenced());
  severs = false;
  const auto healed = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(healed.ok()) << healed.status();
  EXPECT_FALSE(engine.receiver->fenced());
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 1));
}

TEST_P(MembershipTest, WhoWasTakenOverStaysAway) {
  for (const bool same_run : {true, false}) {
    store_ = catalog::MakeMemoryStore({});
    StartTrainers(1);
    PublishAll(1);
    const std::unique_ptr<Trainer> old = std::move(trainers_[0]);
    // The run that takes over is not a publisher of this process.
    catalog::WorkerInfo info = store_->ListWorkers("m", Soon())->front().info;
    info.run_id = same_run ? info.run_id : "another";
    info.epoch = same_run ? 1 : 0;
    const auto next = store_->Register(info, "", Soon());
    ASSERT_TRUE(next.ok()) << next.status();
    const auto attached = store_->Attach(next->worker_id, Soon());
    ASSERT_TRUE(attached.ok()) << attached.status();
    ASSERT_TRUE(store_->PublishShard(next->worker_id, 1, Soon()).ok());
    const absl::Status begun = old->publisher->BeginUpdate(Soon()).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(begun)) << begun;
    EXPECT_THAT(std::string(begun.message()), HasSubstr("has taken over"));
    EXPECT_THAT(std::string(begun.message()), HasSubstr("change no weights"));
    EXPECT_FALSE(old->publisher->Publish(9, Soon()).ok());
    EXPECT_TRUE((*attached)->Health().ok());
    const auto versions = store_->ListVersions("m", Soon());
    ASSERT_TRUE(versions.ok()) << versions.status();
    for (const VersionRecord& each : *versions) {
      EXPECT_EQ(each.state == VersionState::kReady,
                each.version.run_id == info.run_id &&
                    each.version.epoch == info.epoch)
          << catalog::ToString(each.version);
    }
  }
}

// A trainer that had heard who replaced it took the model back when a catalog
// in memory was started again and its next call came before those of the new
// one, which was then refused for ever. model/places.pml: FORGET_REFUSAL.
TEST_P(RestartOverGrpcTest, WhoHeardOfATakeoverStaysAwayFromAnEmptyCatalog) {
  Catalog catalog;
  store_ = catalog.Connect();
  StartTrainers(1);
  PublishAll(1);
  Trainer& old = *trainers_[0];
  catalog::WorkerInfo info =
      catalog.memory().ListWorkers("m", Soon())->front().info;
  info.run_id = "another";
  ASSERT_TRUE(catalog.memory().Register(info, "", Soon()).ok());
  const absl::Status heard = old.publisher->BeginUpdate(Soon()).status();
  ASSERT_THAT(std::string(heard.message()), HasSubstr("has taken over"));

  catalog.Restart();
  const absl::Status again = old.publisher->BeginUpdate(Soon()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(again)) << again;
  EXPECT_THAT(std::string(again.message()), HasSubstr("has taken over"));
  EXPECT_FALSE(old.publisher->Publish(9, Soon()).ok());
  EXPECT_TRUE(catalog.memory().ListWorkers("m", Soon())->empty());
}

// Refuses an attachment, once: as a catalog in memory that was started again
// between the registration and it, or one that has dropped a worker that was
// held between the two and replaced by nobody.
class RefusingStore : public catalog::ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;
  absl::StatusOr<std::unique_ptr<catalog::Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override {
    if (refuses_.exchange(false)) {
      return absl::Status(code_,
                          absl::StrCat("worker \"", worker_id, "\" ", reason_));
    }
    return ForwardingStore::Attach(worker_id, deadline);
  }
  void RefuseTheNext(absl::StatusCode code, const std::string& reason) {
    code_ = code;
    reason_ = reason;
    refuses_ = true;
  }
  bool refuses() const { return refuses_; }

 private:
  absl::StatusCode code_ = absl::StatusCode::kOk;
  std::string reason_;
  std::atomic<bool> refuses_ = false;
};

// The thread that looks for a lost place gave up when the catalog was started
// again once more before it had attached: what the trainer held was READY only
// with its next step, which may wait for engines that wait for this one.
// model/places.pml: LOOK_ONCE.
TEST_P(MembershipTest, APlaceThatIsLostBeforeItIsAttachedIsTakenAgain) {
  const auto forgetful = std::make_shared<RefusingStore>(store_);
  const auto severable = std::make_shared<SeverableStore>(forgetful);
  store_ = severable;
  StartTrainers(1);
  forgetful->RefuseTheNext(absl::StatusCode::kNotFound, "is not known");
  const uint64_t before = trainers_[0]->publisher->generation();
  severable->SeverAll();
  const base::Deadline deadline = Soon();
  while (trainers_[0]->publisher->generation() == before &&
         !deadline.Passed()) {
    std::this_thread::yield();
  }
  EXPECT_GT(trainers_[0]->publisher->generation(), before);
  EXPECT_FALSE(forgetful->refuses());
  EXPECT_TRUE(trainers_[0]->publisher->Health().ok());
}

TEST_P(MembershipTest, WhoAttachedTooLateComesBackAllTheSame) {
  const auto late = std::make_shared<RefusingStore>(store_);
  const auto severable = std::make_shared<SeverableStore>(late);
  store_ = severable;
  StartTrainers(1);
  PublishAll(1);
  late->RefuseTheNext(absl::StatusCode::kFailedPrecondition,
                      "cannot be attached: late");
  severable->SeverAll();
  EXPECT_EQ(trainers_[0]->publisher->BeginUpdate(Soon()).status(),
            absl::OkStatus());
  EXPECT_EQ(trainers_[0]->publisher->Publish(2, Soon()).status(),
            absl::OkStatus());
}

// Time that only a test moves, and renewals that it counts.
class RenewalsStore : public catalog::ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;
  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline deadline) override {
    const absl::Status status = ForwardingStore::RenewLease(lease_id, deadline);
    const std::lock_guard lock(mutex_);
    ++renewals_;
    changed_.notify_all();
    return status;
  }
  // Of renewals that begin from now on.
  void AwaitRenewals(int count) {
    std::unique_lock lock(mutex_);
    const int wanted = renewals_ + count;
    EXPECT_TRUE(changed_.wait_for(lock, Soon().Remaining(),
                                  [&] { return renewals_ >= wanted; }));
  }
  int renewals() {
    const std::lock_guard lock(mutex_);
    return renewals_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int renewals_ = 0;
};

TEST_P(MembershipTest, ARefitMayTakeLongerThanALease) {
  constexpr std::chrono::milliseconds kLasts(30);
  std::atomic<int64_t> now_ns = int64_t{1} << 40;
  const auto renewals = std::make_shared<RenewalsStore>(
      catalog::MakeMemoryStore({.now =
                                    [&] {
                                      return base::Deadline::Clock::time_point(
                                          std::chrono::nanoseconds(now_ns));
                                    },
                                .lease_duration = kLasts}));
  store_ = renewals;
  StartTrainers(1);
  PublishAll(1);
  int durations = 4;
  Engine engine = StartEngine(
      ColumnCut(kRows, kCols, 37, 101), false, [&](ReceiverOptions& options) {
        options.derive_hook = [&](const catalog::VersionId&) {
          for (int i = 0; i < durations; ++i) {
            // The second one began when the clock stood where it stands.
            renewals->AwaitRenewals(2);
            now_ns += std::chrono::nanoseconds(kLasts).count() - 1;
          }
          return absl::OkStatus();
        };
      });
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 1));
  // Nobody renews what was released.
  EXPECT_TRUE(store_->ListLeases("m", Soon())->empty());
  // A lease that was lost all the same is not committed.
  durations = 1;
  PublishAll(2);
  Engine slow = StartEngine(
      ColumnCut(kRows, kCols, 37, 101), false, [&](ReceiverOptions& options) {
        options.derive_hook = [&](const catalog::VersionId&) {
          now_ns += std::chrono::nanoseconds(2 * kLasts).count();
          return absl::OkStatus();
        };
      });
  const auto expired = slow.receiver->Refit(nullptr, false, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(expired.status())) << expired.status();
  EXPECT_TRUE(slow.receiver->fenced());
}

INSTANTIATE_TEST_SUITE_P(Transports, RestartOverGrpcTest,
                         ::testing::Values("inproc", "shm"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });
INSTANTIATE_TEST_SUITE_P(Transports, MembershipTest,
                         ::testing::Values("inproc", "shm"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::session
