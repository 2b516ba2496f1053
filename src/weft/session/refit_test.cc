// Publisher and Receiver through real transports and a memory catalog, in one
// process; processes of their own are in tests/python and tests/processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "weft/catalog/testing/forwarding_store.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using ::testing::HasSubstr;

using testing::AllocateUnder;
using testing::BytesOf;
using testing::ColumnCut;
using testing::Expected;
using testing::FillPlain;
using testing::kEngineGpu;
using testing::kNorm;
using testing::kWeight;
using testing::MakeTransport;
using testing::Soon;
using testing::Trainer;

class RefitTest : public testing::PlainSession {};

TEST_P(RefitTest, ThreeVersionsArriveAndOnlyTheFirstPlans) {
  StartTrainers(3);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 37, 101));
  EXPECT_TRUE(engine.receiver->fenced());
  for (uint64_t step = 1; step <= 3; ++step) {
    PublishAll(step);
    Poison(engine);
    const auto report = engine.receiver->Refit(nullptr, true, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->version.step, step);
    EXPECT_EQ(report->planned, step == 1);
    EXPECT_EQ(report->manifests_fetched, step == 1 ? 3 : 0);
    EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, step));
    EXPECT_FALSE(engine.receiver->fenced());
  }
  EXPECT_EQ(engine.receiver->counters().plans_built, 1);
  EXPECT_EQ(engine.receiver->counters().refits_committed, 3);
}

TEST_P(RefitTest, TheDigestOfEqualBytesDoesNotDependOnTheSources) {
  StartTrainers(3);
  Engine first = StartEngine(ColumnCut(kRows, kCols, 10, 90));
  PublishAll(5);
  const auto from_three = first.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(from_three.ok()) << from_three.status();
  // The same version from another sharding, in a catalog of its own.
  store_ = catalog::MakeMemoryStore({});
  StartTrainers(1);
  Engine second = StartEngine(ColumnCut(kRows, kCols, 10, 90));
  PublishAll(5);
  const auto from_one = second.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(from_one.ok()) << from_one.status();
  EXPECT_EQ(from_three->digest, from_one->digest);
}

TEST_P(RefitTest, AFlippedByteIsRefusedNamedFencedAndHealed) {
  // A copy of the GPU cannot be told to go wrong.
  if (GetParam() == "cuda") GTEST_SKIP() << "no wire to inject faults into";
  StartTrainers(2);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 64, 128), true);
  PublishAll(1);
  // The first operations read one epoch word a peer; the next moves weights.
  ASSERT_TRUE(engine.receiver->Prepare(Soon()).ok());
  transport::Fault flip;
  flip.nth = static_cast<int64_t>(engine.receiver->plan()->peers.size());
  engine.faults->Add(flip);
  const auto torn = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(absl::IsDataLoss(torn.status())) << torn.status();
  EXPECT_THAT(std::string(torn.status().message()),
              ::testing::AnyOf(HasSubstr(kWeight), HasSubstr(kNorm)));
  EXPECT_TRUE(engine.receiver->fenced());
  EXPECT_THAT(engine.receiver->fenced_reason(), HasSubstr("digest"));
  EXPECT_FALSE(engine.receiver->committed().has_value());
  const auto healed = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(healed.ok()) << healed.status();
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 1));
  EXPECT_FALSE(engine.receiver->fenced());
}

TEST_P(RefitTest, WeightsThatChangeWithoutBeginUpdateAreSeenByTheDigest) {
  StartTrainers(2);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, kCols));
  PublishAll(1);
  // A trainer that breaks the protocol: writes after publishing.
  trainers_[1]->owned.buffer->data()[100] ^= std::byte{1};
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(absl::IsDataLoss(report.status())) << report.status();
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("source rank 1"));
}

// Publishes, and then loses what the catalog answered.
class ForgetfulStore : public catalog::ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;
  absl::StatusOr<catalog::VersionRecord> PublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override {
    auto record = ForwardingStore::PublishShard(worker_id, step, deadline);
    if (!forgets) return record;
    return absl::UnavailableError("the answer was lost");
  }
  bool forgets = false;
};

TEST_P(RefitTest, APublisherThatLostTheAnswerWithdrawsWhatOthersRead) {
  const auto forgetful = std::make_shared<ForgetfulStore>(store_);
  store_ = forgetful;
  StartTrainers(1);
  PublishAll(1);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 10, 90));
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  Trainer& trainer = *trainers_[0];
  ASSERT_TRUE(trainer.publisher->BeginUpdate(Soon()).ok());
  FillPlain(trainer.placement, trainer.owned.memory, 2);
  forgetful->forgets = true;
  ASSERT_TRUE(
      absl::IsUnavailable(trainer.publisher->Publish(2, Soon()).status()));
  forgetful->forgets = false;
  // It is READY, and may be read until the next update is begun.
  ASSERT_TRUE(engine.receiver->Refit(nullptr, true, Soon()).ok());
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 2));
  ASSERT_TRUE(trainer.publisher->BeginUpdate(Soon()).ok());
  const auto versions = store_->ListVersions("m", Soon());
  ASSERT_TRUE(versions.ok()) << versions.status();
  for (const catalog::VersionRecord& each : *versions) {
    EXPECT_NE(each.state, catalog::VersionState::kReady)
        << catalog::ToString(each.version);
  }
  PublishAll(3);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, true, Soon()).ok());
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 3));
}

TEST_P(RefitTest, APublisherThatWasClosedHasEndedAndNotDied) {
  StartTrainers(1);
  PublishAll(1);
  trainers_.clear();
  const auto workers = *store_->ListWorkers("m", Soon());
  ASSERT_EQ(workers.size(), 1u);
  EXPECT_EQ(workers[0].death_reason, "publisher rank 0 has ended");
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, 10));
  const catalog::VersionId gone{"run", 0, 1};
  const auto report = engine.receiver->Refit(&gone, false, Soon());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("GONE: publisher rank 0 has ended"));
}

TEST_P(RefitTest, AMissingRankIsNamedByTheDeadline) {
  trainers_.push_back(*StartTrainer(0, 2));
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, kCols));
  PublishAll(1);
  // One whose time is up before it has looked knows of no rank.
  const base::Deadline patience = Soon();
  std::chrono::milliseconds time(50);
  std::string said;
  do {
    const auto report =
        engine.receiver->Refit(nullptr, false, base::Deadline::After(time));
    ASSERT_TRUE(absl::IsDeadlineExceeded(report.status())) << report.status();
    said = std::string(report.status().message());
    time *= 2;
  } while (said.find("nothing has been") != said.npos && !patience.Passed());
  EXPECT_THAT(said, HasSubstr("1 of 2"));
}

TEST_P(RefitTest, TwoPublishersOfOneRankAreRefused) {
  StartTrainers(2);
  const auto second = StartTrainer(1, 2);
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
}

TEST_P(RefitTest, ARestartedTrainerTakesOverAndTheSamePlanServes) {
  StartTrainers(2, /*epoch=*/0);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 3, 77));
  PublishAll(9);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  StartTrainers(2, /*epoch=*/1);
  PublishAll(4);  // a smaller step of a newer epoch
  Poison(engine);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->version.epoch, 1u);
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 4));
  // The layouts are the same: no manifest is fetched, nothing is planned.
  EXPECT_EQ(report->manifests_fetched, 0);
  EXPECT_FALSE(report->planned);
}

// A trainer that has lost its checkpoint begins again with initial weights.
TEST_P(RefitTest, ALowerStepIsRefusedIfToldToAndTheEngineServesOn) {
  StartTrainers(2, /*epoch=*/0);
  Engine engine = StartEngine(
      ColumnCut(kRows, kCols, 3, 77), /*faulty=*/false,
      [](ReceiverOptions& options) { options.refuse_lower_step = true; });
  PublishAll(9);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  StartTrainers(2, /*epoch=*/1);
  PublishAll(0);
  const catalog::VersionId initial{"run", 1, 0};
  for (const catalog::VersionId* asked :
       std::vector<const catalog::VersionId*>{nullptr, &initial}) {
    const auto refused = engine.receiver->Refit(asked, false, Soon());
    ASSERT_TRUE(absl::IsFailedPrecondition(refused.status()))
        << refused.status();
    EXPECT_EQ(refused.status().message(),
              "version run:1:0 of model \"m\" is refused: its step 0 is lower "
              "than step 9 of run:0:9, which this receiver has committed; "
              "publish step 9 or a later one, or make the receiver without "
              "refuse_lower_step if the trainer goes back on purpose");
    EXPECT_FALSE(engine.receiver->fenced());
    EXPECT_EQ(engine.receiver->committed()->epoch, 0u);
    EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 9));
  }
  // The lease is given back: it holds up no trainer.
  EXPECT_THAT(*store_->ListLeases("m", Soon()), ::testing::IsEmpty());
  // The step that was there, from the newer epoch, is not lower.
  PublishAll(9);
  Poison(engine);
  const auto again = engine.receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->version.epoch, 1u);
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 9));
  // Another run counts its steps by itself.
  StartTrainers(2, /*epoch=*/0, "another");
  PublishAll(1);
  const auto other = engine.receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 1));
}

TEST_P(RefitTest, AnUpdateDuringTheTransferAbortsTheRefit) {
  StartTrainers(1);
  // The trainer gives readers no time, and begins while the transfer runs.
  bool begun = false;
  Engine engine = StartEngine(
      ColumnCut(kRows, kCols, 0, kCols), /*faulty=*/false,
      [&](ReceiverOptions& options) {
        options.execute.progress = [&](int64_t, int64_t) {
          if (std::exchange(begun, true)) return;
          const base::Deadline now =
              base::Deadline::After(std::chrono::nanoseconds(0));
          ASSERT_TRUE(trainers_[0]->publisher->BeginUpdate(now).ok());
          FillPlain(trainers_[0]->placement, trainers_[0]->owned.memory, 2);
        };
      });
  PublishAll(1);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(begun);
  ASSERT_TRUE(absl::IsAborted(report.status())) << report.status();
  EXPECT_TRUE(engine.receiver->fenced());
  ASSERT_TRUE(trainers_[0]->publisher->Publish(2, Soon()).ok());
  const auto healed = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(healed.ok()) << healed.status();
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 2));
}

TEST_P(RefitTest, AHookThatFailsFences) {
  StartTrainers(1);
  PublishAll(1);
  Engine engine = StartEngine(
      ColumnCut(kRows, kCols, 0, 10), /*faulty=*/false,
      [](ReceiverOptions& options) {
        options.derive_hook = [](const catalog::VersionId&) {
          return absl::InternalError("the absorbed weights are stale");
        };
      });
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("the absorbed weights are stale"));
  EXPECT_TRUE(engine.receiver->fenced());
}

// Everything has arrived and agreed, and the trainer was told that nobody reads
// any more: the receiver must not go on as if its commit had been recorded.
TEST_P(RefitTest, ARevokedLeaseIsNoCommit) {
  StartTrainers(1);
  PublishAll(1);
  bool revoke = true;
  Engine engine =
      StartEngine(ColumnCut(kRows, kCols, 0, 10), /*faulty=*/false,
                  [&](ReceiverOptions& options) {
                    options.derive_hook = [&](const catalog::VersionId&) {
                      if (!revoke) return absl::OkStatus();
                      const auto revoked = trainers_[0]->publisher->BeginUpdate(
                          base::Deadline::After(std::chrono::nanoseconds(0)));
                      EXPECT_EQ(revoked.value_or(-1), 1);
                      return revoked.status();
                    };
                  });
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(report.status())) << report.status();
  EXPECT_TRUE(engine.receiver->fenced());
  EXPECT_FALSE(engine.receiver->committed().has_value());
  revoke = false;
  PublishAll(2);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, true, Soon()).ok());
  EXPECT_FALSE(engine.receiver->fenced());
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 2));
}

TEST_P(RefitTest, AWaitCanBeInterrupted) {
  StartTrainers(1);
  int calls = 0;
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, 10),
                              /*faulty=*/false, [&](ReceiverOptions& options) {
                                options.while_waiting = [&] {
                                  return ++calls < 2
                                             ? absl::OkStatus()
                                             : absl::CancelledError("enough");
                                };
                              });
  const auto report =
      engine.receiver->Refit(nullptr, false, base::Deadline::Infinite());
  EXPECT_EQ(report.status(), absl::CancelledError("enough"));
  EXPECT_EQ(calls, 2);
}

// The newest version was found READY, and GONE when its lease was asked for:
// the refit failed although a later version came within its time.
TEST_P(RefitTest, TheNewestVersionMayGoBeforeItIsLeased) {
  class FastTrainer : public catalog::ForwardingStore {
   public:
    using ForwardingStore::ForwardingStore;
    absl::StatusOr<catalog::Lease> AcquireLease(
        const std::string& worker_id, const catalog::VersionId& version,
        base::Deadline deadline) override {
      if (auto step = std::exchange(next_step, nullptr)) step();
      return ForwardingStore::AcquireLease(worker_id, version, deadline);
    }
    std::function<void()> next_step;
  };
  const auto store = std::make_shared<FastTrainer>(store_);
  store->next_step = [this] { PublishAll(2); };
  StartTrainers(1);
  bool published = false;
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, 10), /*faulty=*/false,
                              [&](ReceiverOptions& options) {
                                options.catalog = store;
                                options.while_waiting = [&] {
                                  if (!std::exchange(published, true))
                                    PublishAll(1);
                                  return absl::OkStatus();
                                };
                              });
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->version.step, 2u);
  EXPECT_EQ(store->next_step, nullptr);
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 2));
}

// A trainer of another model whose tensors happen to cover this one: a norm of
// the queries that this one lacks.
TEST_P(RefitTest, APartThatTheModelDoesNotHaveIsRefused) {
  StartTrainers(2);
  PublishAll(1);
  const auto start = [&](std::vector<std::string> known) {
    return StartEngine(
        ColumnCut(kRows, kCols, 0, 10), /*faulty=*/false,
        [&](ReceiverOptions& options) { options.known_tensors = known; });
  };
  Engine engine = start({kWeight, "attention.k.weight"});
  const std::string before = BytesOf(engine.owned);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  EXPECT_EQ(report.status().message(),
            "the trainer publishes \"attention.norm.weight\", which this model "
            "does not have: it would be served without");
  EXPECT_TRUE(report.status().GetPayload(kPlanRefusedPayload).has_value());
  EXPECT_EQ(BytesOf(engine.owned), before);
  Engine right = start({kWeight, kNorm});
  const auto done = right.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->not_taken, "");
}

// A trainer of a deeper model of the same name: it was served, cut short,
// without a word.
TEST_P(RefitTest, WhatBelongsToNoModuleOfTheModelIsSaidOrRefused) {
  StartTrainers(2);
  const auto start = [&](bool refuse) {
    return StartEngine(ColumnCut(kRows, kCols, 0, 10), /*faulty=*/false,
                       [&](ReceiverOptions& options) {
                         options.known_tensors = {"mlp.up.weight"};
                         options.refuse_unknown_tensors = refuse;
                       });
  };
  const std::string said =
      "the trainer publishes 2 tensors, and 2 of them, such as "
      "\"attention.norm.weight\", belong to no module of this model: they are "
      "not taken";
  Engine engine = start(false);
  for (uint64_t step = 1; step <= 2; ++step) {
    PublishAll(step);
    const auto done = engine.receiver->Refit(nullptr, false, Soon());
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(done->not_taken, said);
  }
  Engine careful = start(true);
  const std::string before = BytesOf(careful.owned);
  const auto refused = careful.receiver->Refit(nullptr, false, Soon());
  EXPECT_EQ(refused.status().message(),
            said +
                "; publish the model that is served here, or make the "
                "receiver without refuse_unknown_tensors if the trainer has "
                "more on purpose");
  EXPECT_TRUE(refused.status().GetPayload(kPlanRefusedPayload).has_value());
  EXPECT_EQ(BytesOf(careful.owned), before);
}

// Tied weights as two tensors over one memory: of two digests that are taken
// as bytes land, the first would hold although the second overwrites it.
TEST_P(RefitTest, TensorsThatShareMemoryAreNoTarget) {
  ReceiverOptions options;
  options.model = "m";
  options.placement = ColumnCut(kRows, kCols, 0, 10);
  OwnedRankMemory owned =
      AllocateUnder(GetParam(), options.placement, kEngineGpu);
  options.memory = owned.memory;
  options.memory.stored[1].offset_bytes = kRows * 10 * 2 - 4;
  options.catalog = store_;
  options.transports.push_back(MakeTransport(GetParam(), kEngineGpu));
  const auto receiver = Receiver::Create(std::move(options), Soon());
  EXPECT_EQ(receiver.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(receiver.status().message(),
            "\"norm\" and \"w_cut\" share 4 bytes of memory, one would "
            "overwrite the other: give each memory of its own, or receive only "
            "one of them");
}

TEST_P(RefitTest, LayoutsThatDoNotFitAreRefusedBeforeAByteMoves) {
  StartTrainers(2);
  PublishAll(1);
  Engine engine = StartEngine(ColumnCut(kRows + 1, kCols, 0, kCols));
  const std::string before = BytesOf(engine.owned);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("[200,150]"));
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("[201,150]"));
  EXPECT_EQ(BytesOf(engine.owned), before);
}

// Random shapes: cuts that do not meet tiles, empty shards, tiny tensors.
TEST_P(RefitTest, RandomCutsArrive) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 6; ++round) {
    const int64_t rows = 1 + random() % 300;
    const int64_t cols = 2 + random() % 300;
    const int64_t ranks = 1 + random() % 5;
    const int64_t begin = random() % (cols - 1);
    const int64_t end = begin + 1 + random() % (cols - begin);
    SCOPED_TRACE(::testing::Message()
                 << rows << "x" << cols << " over " << ranks
                 << " ranks, columns " << begin << ".." << end);
    store_ = catalog::MakeMemoryStore({});
    std::vector<std::unique_ptr<testing::Trainer>> trainers;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      auto trainer = std::make_unique<testing::Trainer>();
      trainer->placement = testing::RowShard(rows, cols, rank, ranks);
      trainer->owned = testing::AllocateUnder(GetParam(), trainer->placement,
                                              testing::kTrainerGpu);
      PublisherOptions options;
      options.device = testing::FakeGpuOptions();
      options.model = "m";
      options.placement = trainer->placement;
      options.memory = trainer->owned.memory;
      options.catalog = store_;
      options.transports.push_back(
          MakeTransport(GetParam(), testing::kTrainerGpu));
      auto publisher = Publisher::Create(std::move(options), Soon());
      ASSERT_TRUE(publisher.ok()) << publisher.status();
      trainer->publisher = *std::move(publisher);
      FillPlain(trainer->placement, trainer->owned.memory, 7);
      ASSERT_TRUE(trainer->publisher->Publish(7, Soon()).ok());
      trainers.push_back(std::move(trainer));
    }
    Engine engine = StartEngine(ColumnCut(rows, cols, begin, end));
    const auto report = engine.receiver->Refit(nullptr, false, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_EQ(BytesOf(engine.owned), Expected(engine.placement, 7));
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, RefitTest,
                         ::testing::Values("inproc", "shm", "ucx", "cuda",
                                           "gpu_ucx", "gpu_host"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::session
