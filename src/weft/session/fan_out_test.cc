// More than one source of the same bytes: replicas among publishers, and
// receivers that serve what they have committed.
#include "weft/session/testing/fan_out.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace weft::session::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

TEST_P(FanOutTest, AReplicaStandsInForARankThatDiesInMidRefit) {
  StartTrainers(/*parts=*/2, /*replicas=*/2);
  PublishAll(1);
  bool was_fenced = true;
  std::unique_ptr<Engine> engine;
  engine = StartEngine({}, false, /*faulty=*/true, [&](auto& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      was_fenced = was_fenced && engine->receiver->fenced();
    };
  });
  ASSERT_TRUE(engine->receiver->Prepare(Soon()).ok());
  const int64_t dies = engine->receiver->plan()->peers[0].src_rank;
  engine->faults->Add({.kind = transport::Fault::Kind::kPeerDeath,
                       .peer_label = "publisher rank " + std::to_string(dies),
                       .bytes = 1000});
  const RefitReport report = Refit(*engine);
  EXPECT_EQ(engine->faults->struck(), 1);
  EXPECT_TRUE(was_fenced);
  ASSERT_THAT(report.replaced, SizeIs(1));
  EXPECT_EQ(report.replaced[0].source,
            "publisher rank " + std::to_string(dies));
  EXPECT_THAT(report.replaced[0].by,
              ElementsAre("publisher rank " + std::to_string((dies + 2) % 4)));
  // What had arrived from the other rank is not moved again.
  EXPECT_EQ(report.bytes + report.bytes_resumed, kRows * kCols * kItemBytes);
  EXPECT_EQ(engine->receiver->counters().refits_failed, 0);
}

TEST_P(FanOutTest, WithoutAReplicaTheLossIsAnError) {
  StartTrainers(2, 1);
  PublishAll(1);
  auto engine = StartEngine({}, false, /*faulty=*/true);
  engine->faults->Add({.kind = transport::Fault::Kind::kPeerDeath,
                       .peer_label = "publisher rank 1",
                       .bytes = 1000});
  const auto torn = engine->receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(absl::IsUnavailable(torn.status())) << torn.status();
  EXPECT_THAT(std::string(torn.status().message()),
              HasSubstr("publisher rank 1"));
  EXPECT_TRUE(engine->receiver->fenced());
  Refit(*engine);
}

TEST_P(FanOutTest, AVersionOutlivesAReplicaAndLaterReceiversGetIt) {
  StartTrainers(2, 2);
  PublishAll(1);
  auto engine = StartEngine({}, false);
  Refit(*engine);
  trainers_[0]->publisher.reset();
  trainers_[3]->publisher.reset();
  const RefitReport report = Refit(*engine);
  EXPECT_GT(BytesFrom(report, "publisher rank 1"), 0);
  EXPECT_GT(BytesFrom(report, "publisher rank 2"), 0);
  EXPECT_THAT(report.peers, SizeIs(2));
}

// A source that the catalog still believes in, but that cannot be reached.
TEST_P(FanOutTest, AReplicaThatCannotBeReachedIsLeftOut) {
  StartTrainers(1, 2);
  PublishAll(1);
  auto engine = StartEngine({}, false, /*faulty=*/true);
  engine->faults->Add({.kind = transport::Fault::Kind::kCorruptKey,
                       .peer_label = "publisher rank"});
  const RefitReport report = Refit(*engine);
  EXPECT_EQ(engine->faults->struck(), 1);
  EXPECT_THAT(report.peers, SizeIs(1));
}

// Every engine has all of the weights; the trainer sends them once.
TEST_P(FanOutTest, EightReceiversTakeTheTrainersBytesOnce) {
  const int64_t all = kRows * kCols * kItemBytes;
  for (const bool fan_out : {false, true}) {
    store_ = catalog::MakeMemoryStore({});
    StartTrainers(1, 1);
    std::vector<std::unique_ptr<Engine>> engines;
    for (int i = 0; i < 8; ++i) {
      engines.push_back(StartEngine({}, fan_out));
    }
    for (uint64_t step = 1; step <= 3; ++step) {
      PublishAll(step);
      std::map<std::string, int64_t> load;
      std::string digest;
      for (const auto& engine : engines) {
        const RefitReport report = Refit(*engine);
        EXPECT_EQ(report.version.step, step);
        EXPECT_EQ(report.serving, fan_out) << report.not_served;
        EXPECT_THAT(report.replaced, IsEmpty());
        // Whoever it came through, it is what the trainer published.
        if (digest.empty()) digest = report.digest;
        EXPECT_EQ(report.digest, digest);
        for (const PeerReport& peer : report.peers) {
          load[peer.name] += peer.bytes;
        }
      }
      EXPECT_EQ(load["publisher rank 0"], fan_out ? all : 8 * all);
      EXPECT_EQ(NumSources(), fan_out ? 9u : 1u);
    }
  }
}

TEST_P(FanOutTest, CopiesAndTrainersTogetherCoverWhatNeitherCopyHolds) {
  StartTrainers(2, 1);
  PublishAll(1);
  auto left = StartEngine({.columns = {0, 50}}, true);
  auto top = StartEngine({.rows = {0, 70}}, true);
  Refit(*left);
  Refit(*top);
  auto all = StartEngine({}, false);
  const RefitReport report = Refit(*all);
  EXPECT_GT(BytesFrom(report, "copy"), 0);
  EXPECT_GT(BytesFrom(report, "publisher"), 0);
  EXPECT_GT(BytesFrom(report, "copy"), BytesFrom(report, "publisher"));
  auto plain = StartEngine({}, false, false,
                           [](auto& options) { options.read_copies = false; });
  const RefitReport from_trainers = Refit(*plain);
  EXPECT_EQ(BytesFrom(from_trainers, "copy"), 0);
  EXPECT_EQ(from_trainers.digest, report.digest);
}

TEST_P(FanOutTest, ACopyThatRotsIsRefusedByNameAndTheTrainerServes) {
  StartTrainers(1, 1);
  PublishAll(1);
  auto rotten = StartEngine({}, true);
  const RefitReport first = Refit(*rotten);
  ASSERT_TRUE(first.serving) << first.not_served;
  StoredBase(rotten->owned.memory, 0)[4321] ^= std::byte{0x10};
  auto second = StartEngine({}, true);
  const RefitReport report = Refit(*second);
  ASSERT_THAT(report.replaced, SizeIs(1));
  EXPECT_THAT(report.replaced[0].source, StartsWith("copy w"));
  EXPECT_THAT(report.replaced[0].why,
              AllOf(HasSubstr("digest"), HasSubstr(kWeight)));
  EXPECT_THAT(report.replaced[0].by, ElementsAre("publisher rank 0"));
  EXPECT_EQ(BytesFrom(report, "publisher"), report.bytes);
  EXPECT_EQ(report.digest, first.digest);
  EXPECT_TRUE(report.serving);
}

TEST_P(FanOutTest, ACopyThatDiesInMidRefitIsReplaced) {
  StartTrainers(1, 1);
  PublishAll(1);
  auto copy = StartEngine({}, true);
  Refit(*copy);
  auto second = StartEngine({}, false, /*faulty=*/true);
  second->faults->Add({.kind = transport::Fault::Kind::kPeerDeath,
                       .peer_label = "copy",
                       .bytes = 1000});
  const RefitReport report = Refit(*second);
  ASSERT_THAT(report.replaced, SizeIs(1));
  EXPECT_THAT(report.replaced[0].source, StartsWith("copy w"));
  EXPECT_EQ(BytesFrom(report, "publisher"), report.bytes);
}

// The trainer's update ends the version for those that read copies, too.
TEST_P(FanOutTest, AnUpdateEndsCopiesAndTheyServeTheNextVersion) {
  StartTrainers(1, 1);
  PublishAll(1);
  auto copy = StartEngine({}, true);
  Refit(*copy);
  EXPECT_EQ(NumSources(), 2u);
  ASSERT_TRUE(trainers_[0]->publisher->BeginUpdate(Soon()).ok());
  EXPECT_EQ(NumSources(), 1u);
  PublishAll(2);
  Refit(*copy);
  auto second = StartEngine({}, false);
  const RefitReport report = Refit(*second);
  EXPECT_EQ(report.version.step, 2u);
  EXPECT_GT(BytesFrom(report, "copy"), 0);
  // A restarted trainer takes over from copies, too.
  StartTrainers(1, 1, /*epoch=*/1);
  PublishAll(1);
  EXPECT_EQ(NumSources(), 1u);
  Refit(*copy);
  EXPECT_EQ(NumSources(), 2u);
  EXPECT_EQ(BytesFrom(Refit(*second), "publisher"), 0);
}

// What begins to receive serves nobody meanwhile, whatever it receives.
TEST_P(FanOutTest, ACopyThatReceivesServesNobody) {
  StartTrainers(1, 1);
  PublishAll(1);
  size_t sources_seen = 99;
  auto copy = StartEngine({}, true, /*faulty=*/false, [&](auto& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      sources_seen = NumSources();
    };
  });
  Refit(*copy);
  EXPECT_EQ(NumSources(), 2u);
  const RefitReport again = Refit(*copy);  // the same version
  EXPECT_EQ(sources_seen, 1u);
  EXPECT_EQ(BytesFrom(again, "publisher"), again.bytes);
  EXPECT_TRUE(again.serving) << again.not_served;
  EXPECT_EQ(NumSources(), 2u);
  copy.reset();
  EXPECT_EQ(NumSources(), 1u);
}

// A reader is in the middle of it when the copy begins to change.
TEST_P(FanOutTest, ACopyThatChangesInMidRefitIsReplaced) {
  StartTrainers(1, 1);
  PublishAll(1);
  bool begun = false;
  auto copy = StartEngine({}, true, false, [&](auto& options) {
    options.derive_hook = [&](const catalog::VersionId&) {
      return begun ? absl::InternalError("the engine stops") : absl::OkStatus();
    };
  });
  Refit(*copy);
  auto second = StartEngine({}, false, false, [&](auto& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      if (std::exchange(begun, true)) return;
      EXPECT_FALSE(copy->receiver->Refit(nullptr, false, Soon()).ok());
      Poison(*copy);
    };
  });
  const RefitReport report = Refit(*second);
  EXPECT_TRUE(begun);
  ASSERT_THAT(report.replaced, SizeIs(1));
  EXPECT_THAT(report.replaced[0].source, StartsWith("copy w"));
  EXPECT_EQ(BytesFrom(report, "publisher"), report.bytes);
}

// A copy that receives its version once more showed the same epoch word before
// and after: who read from it meanwhile, without digests, kept what lay there.
TEST_P(FanOutTest, ACopyDoesNotComeBackUnderTheWordOfBefore) {
  StartTrainers(1, 1);
  PublishAll(1);
  bool fails = false;
  auto copy = StartEngine({}, true, false, [&](auto& options) {
    options.derive_hook = [&](const catalog::VersionId&) {
      return fails ? absl::InternalError("the engine stops") : absl::OkStatus();
    };
  });
  Refit(*copy);
  int moved = 0;
  auto second = StartEngine({}, false, false, [&](auto& options) {
    options.verify = false;
    options.on_phase = [&](const RefitPhase& phase) {
      if (phase.name == "epoch words before" && moved == 0) {
        fails = true;
        EXPECT_FALSE(copy->receiver->Refit(nullptr, false, Soon()).ok());
        Poison(*copy);
      } else if (phase.name.starts_with("move") && moved++ == 0) {
        fails = false;
        const auto again = copy->receiver->Refit(nullptr, false, Soon());
        EXPECT_TRUE(again.ok() && again->serving);
      }
    };
  });
  const RefitReport report = Refit(*second);
  EXPECT_GE(moved, 1);
  ASSERT_THAT(report.replaced, SizeIs(1));
  EXPECT_THAT(report.replaced[0].source, StartsWith("copy w"));
  EXPECT_EQ(BytesFrom(report, "publisher"), report.bytes);
}

// The set that is live is served while the other one receives.
TEST_P(FanOutTest, ACopyWithASecondSetServesUntilItSwitches) {
  StartTrainers(1, 1);
  PublishAll(1);
  std::vector<size_t> sources_seen;
  const auto look = [&] {
    sources_seen.push_back(NumSources());
    return absl::OkStatus();
  };
  auto copy = StartEngine({}, true, false, [&](auto& options) {
    options.mode = ReceiveMode::kShadow;
    options.shadow.pause = look;
    options.execute.progress = [&](int64_t, int64_t) { look().IgnoreError(); };
  });
  const RefitReport first = Refit(*copy);
  ASSERT_TRUE(first.serving) << first.not_served;
  sources_seen.clear();
  // The same version, so that the trainer does not end it: received beside the
  // one that is served, which nobody reads any more when they change places.
  const auto again = copy->receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_THAT(sources_seen, SizeIs(2));
  EXPECT_THAT(sources_seen, ElementsAre(2u, 1u));
  EXPECT_EQ(BytesFrom(*again, "publisher"), again->bytes);
  PublishAll(2);
  const RefitReport next = Refit(*copy);
  ASSERT_TRUE(next.serving) << next.not_served;
  auto second = StartEngine({}, false);
  const RefitReport report = Refit(*second);
  EXPECT_EQ(report.version.step, 2u);
  EXPECT_EQ(BytesFrom(report, "copy"), report.bytes);
  EXPECT_EQ(report.digest, next.digest);
}

// A lease does not keep it from going back.
TEST_P(FanOutTest, ACopyThatRollsBackInMidRefitIsReplaced) {
  StartTrainers(1, 1);
  auto copy = StartEngine({}, true, false, [](auto& options) {
    options.mode = ReceiveMode::kShadow;
  });
  for (const uint64_t step : {1, 2}) {
    PublishAll(step);
    // Not poisoned before: the live set becomes the previous one.
    ASSERT_TRUE(copy->receiver->Refit(nullptr, false, Soon()).ok());
  }
  int moved = 0;
  auto second = StartEngine({}, false, false, [&](auto& options) {
    options.on_phase = [&](const RefitPhase& phase) {
      if (phase.name == "epoch words before" && moved == 0) {
        const auto back = copy->receiver->Rollback(Soon());
        ASSERT_TRUE(back.ok()) << back.status();
        EXPECT_TRUE(copy->Held() == Bytes(copy->window, 1));
        EXPECT_EQ(NumSources(), 1u);
      } else if (phase.name.starts_with("move") && moved++ == 0) {
        EXPECT_TRUE(copy->receiver->Rollback(Soon()).ok());
        EXPECT_TRUE(copy->Held() == Bytes(copy->window, 2));
        EXPECT_EQ(NumSources(), 1u);
      }
    };
  });
  const RefitReport report = Refit(*second);
  EXPECT_EQ(report.version.step, 2u);
  ASSERT_THAT(report.replaced, SizeIs(1));
  EXPECT_THAT(report.replaced[0].source, StartsWith("copy w"));
  EXPECT_EQ(BytesFrom(report, "publisher"), report.bytes);
}

TEST_P(FanOutTest, WhatIsNotWhatArrivedIsNotServed) {
  StartTrainers(1, 1);
  PublishAll(1);
  auto engine = StartSpoiler();
  const auto report = engine->receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->serving);
  EXPECT_THAT(report->not_served, HasSubstr("has changed since run:0:1"));
  EXPECT_EQ(NumSources(), 1u);
}

TEST_P(FanOutTest, WhatWasConvertedIsNotServed) {
  StartTrainers(1, 1);
  PublishAll(1);
  ReceiverOptions options;
  options.model = "m";
  options.placement = Holding({}, 0, 1, "engine");
  options.placement.stored[0].dtype = tensor::DType::kF32;
  const OwnedRankMemory owned =
      *AllocateFor(options.placement, memory::MemoryKind::kShared);
  options.memory = owned.memory;
  options.catalog = store_;
  options.transports.push_back(MakeTransport(nullptr));
  options.measure_bound = false;
  options.serve = true;
  auto receiver = *Receiver::Create(std::move(options), Soon());
  const auto report = receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->serving);
  EXPECT_THAT(report->not_served, HasSubstr("converts \"mlp.up.weight\""));
}

TEST_P(FanOutTest, NobodyServesUnverified) {
  ReceiverOptions options;
  options.serve = true;
  options.verify = false;
  EXPECT_TRUE(absl::IsInvalidArgument(
      Receiver::Create(std::move(options), Soon()).status()));
  ReceiverOptions swaps;
  swaps.serve = true;
  swaps.mode = ReceiveMode::kShadow;
  swaps.shadow.swap = [](const RankMemory&) { return absl::OkStatus(); };
  EXPECT_TRUE(absl::IsUnimplemented(
      Receiver::Create(std::move(swaps), Soon()).status()));
}

INSTANTIATE_TEST_SUITE_P(Transports, FanOutTest,
                         ::testing::Values("inproc", "shm", "ucx"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::session::testing
