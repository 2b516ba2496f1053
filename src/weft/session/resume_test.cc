// An interrupted refit goes on: only what does not lie in place moves again,
// in this process and, with a state file, in the next one.
//
// What must move is told by a plain rule: the rows of each trainer rank are one
// move, the norm is another one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "weft/session/state_file_internal.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using testing::BytesOf;
using testing::ColumnCut;
using testing::Expected;
using testing::FillPlain;
using ::testing::HasSubstr;
using testing::Soon;

class ResumeTest : public testing::PlainSession {
 protected:
  static constexpr int64_t kBegin = 37;
  static constexpr int64_t kEnd = 101;  // cuts tiles on both sides
  static constexpr int64_t kRanks = 5;
  static constexpr int64_t kRowsOfRank = kRows / kRanks;
  static constexpr int64_t kMoveBytes = kRowsOfRank * (kEnd - kBegin) * 2;
  static constexpr int64_t kNormBytes = kCols * 2;
  static constexpr int64_t kAllBytes = kRanks * kMoveBytes + kNormBytes;

  ResumeTest() {
    path_ = ::testing::TempDir() + "weft_resume_" +
            std::to_string(::testing::UnitTest::GetInstance()->random_seed()) +
            "_" + std::to_string(getpid()) + ".state";
    std::filesystem::remove(path_);
  }
  ~ResumeTest() override {
    std::filesystem::remove(path_);
    std::filesystem::remove(path_ + ".lock");
  }

  Engine StartResuming(
      bool faulty = false,
      const std::function<void(ReceiverOptions&)>& adjust = nullptr) {
    return StartEngine(ColumnCut(kRows, kCols, kBegin, kEnd), faulty,
                       [&](ReceiverOptions& options) {
                         options.resume = true;
                         options.state_file = path_;
                         if (adjust) adjust(options);
                       });
  }
  // The engine's process has died and its memory has not.
  void Restart(Engine& engine, bool resume = true) {
    engine.receiver.reset();
    OwnedRankMemory kept = std::move(engine.owned);
    Engine next = StartResuming(false, [&](ReceiverOptions& options) {
      options.memory = kept.memory;
      options.resume = resume;
    });
    next.owned = std::move(kept);
    engine = std::move(next);
  }

  // A receiver of another part with the same file.
  absl::Status StartOther() {
    ReceiverOptions options;
    options.execute.device = testing::FakeGpuOptions();
    options.model = "m";
    options.placement = ColumnCut(kRows, kCols, 0, 10);
    const OwnedRankMemory owned = testing::AllocateUnder(
        GetParam(), options.placement, testing::kEngineGpu);
    options.memory = owned.memory;
    options.catalog = store_;
    options.state_file = path_;
    return Receiver::Create(std::move(options), Soon()).status();
  }

  static uint16_t* Weight(Engine& engine) {
    return reinterpret_cast<uint16_t*>(StoredBase(engine.owned.memory, 0));
  }
  static uint16_t* Norm(Engine& engine) {
    return reinterpret_cast<uint16_t*>(StoredBase(engine.owned.memory, 1));
  }
  // 0 where nothing is resumed.
  static int64_t Resumed(int64_t bytes) {
    return GetParam() == "cuda" ? 0 : bytes;
  }

  static void ExpectReport(const absl::StatusOr<RefitReport>& report,
                           int64_t resumed_bytes) {
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->bytes_resumed, resumed_bytes);
    EXPECT_EQ(report->bytes, kAllBytes - resumed_bytes);
    int64_t of_peers = 0;
    for (const PeerReport& peer : report->peers) of_peers += peer.bytes;
    EXPECT_EQ(of_peers, report->bytes);
  }
  static void ExpectServes(const Engine& engine, uint64_t step) {
    EXPECT_FALSE(engine.receiver->fenced());
    EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, step));
  }

  std::string path_;
};

TEST_P(ResumeTest, OnlyWhatDiffersMovesAgain) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  StartTrainers(kRanks);
  Engine engine = StartResuming();
  PublishAll(1);
  const auto first = engine.receiver->Refit(nullptr, false, Soon());
  ExpectReport(first, 0);
  for (int round = 0; round < 8; ++round) {
    std::set<int64_t> torn_ranks;
    bool norm_torn = false;
    for (uint32_t i = random() % 4; i > 0; --i) {
      const auto row = static_cast<int64_t>(random() % kRows);
      const auto column = static_cast<int64_t>(random() % (kEnd - kBegin));
      // A bit of its own each time: two errors do not heal each other.
      Weight(engine)[row * (kEnd - kBegin) + column] ^=
          static_cast<uint16_t>(1 << i);
      torn_ranks.insert(row / kRowsOfRank);
    }
    if (random() % 2 == 0) {
      Norm(engine)[random() % kCols] ^= 1;
      norm_torn = true;
    }
    const auto report = engine.receiver->Refit(nullptr, false, Soon());
    const int64_t torn_bytes =
        static_cast<int64_t>(torn_ranks.size()) * kMoveBytes +
        (norm_torn ? kNormBytes : 0);
    ExpectReport(report, Resumed(kAllBytes - torn_bytes));
    ExpectServes(engine, 1);
    EXPECT_EQ(report->digest, first->digest);
    EXPECT_EQ(report->tiles_checked, first->tiles_checked);
  }
}

// The digests are of values before a conversion: what they were cannot be told
// from what lies here.
TEST_P(ResumeTest, WhatIsConvertedIsMovedAgain) {
  StartTrainers(kRanks);
  manifest::Placement placement = ColumnCut(kRows, kCols, kBegin, kEnd);
  placement.stored[1].dtype = tensor::DType::kF32;
  Engine engine = StartEngine(placement, false, [](ReceiverOptions& options) {
    options.resume = true;
  });
  PublishAll(1);
  const auto first = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto* const norm =
      reinterpret_cast<const float*>(StoredBase(engine.owned.memory, 1));
  const std::vector<float> before(norm, norm + kCols);
  std::memset(StoredBase(engine.owned.memory, 1), 0xA5, 4 * kCols);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes_resumed, Resumed(kRanks * kMoveBytes));
  EXPECT_EQ(report->bytes + report->bytes_resumed,
            kRanks * kMoveBytes + 4 * kCols);
  EXPECT_EQ(report->digest, first->digest);
  EXPECT_EQ(std::memcmp(norm, before.data(), 4 * kCols), 0);
}

TEST_P(ResumeTest, ATornRefitGoesOnWhereItBroke) {
  if (GetParam() == "cuda") GTEST_SKIP() << "no wire to inject faults into";
  StartTrainers(kRanks);
  Engine engine = StartResuming(/*faulty=*/true);
  PublishAll(1);
  ASSERT_TRUE(engine.receiver->Prepare(Soon()).ok());
  transport::Fault flip;
  flip.nth = static_cast<int64_t>(engine.receiver->plan()->peers.size());
  engine.faults->Add(flip);
  ASSERT_TRUE(absl::IsDataLoss(
      engine.receiver->Refit(nullptr, false, Soon()).status()));
  EXPECT_TRUE(engine.receiver->fenced());
  // The byte may have struck a move, or what lies in the gaps of one.
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GE(report->bytes_resumed, kAllBytes - kMoveBytes);
  EXPECT_EQ(report->bytes + report->bytes_resumed, kAllBytes);
  ExpectServes(engine, 1);
}

TEST_P(ResumeTest, AnotherVersionMovesAll) {
  StartTrainers(kRanks);
  Engine engine = StartResuming();
  for (uint64_t step = 1; step <= 3; ++step) {
    PublishAll(step);
    ExpectReport(engine.receiver->Refit(nullptr, true, Soon()), 0);
    ExpectServes(engine, step);
  }
}

TEST_P(ResumeTest, NothingIsTrustedUnlessAsked) {
  StartTrainers(kRanks);
  Engine engine = StartResuming(
      false, [](ReceiverOptions& options) { options.resume = false; });
  PublishAll(1);
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()), 0);
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()), 0);
}

TEST_P(ResumeTest, WhatLiesInPlaceIsNotReadAgain) {
  if (GetParam() == "cuda") GTEST_SKIP() << "all is moved again on a GPU";
  StartTrainers(kRanks);
  Engine engine = StartResuming();
  PublishAll(1);
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()), 0);
  // A trainer that breaks the protocol: its table still says what lies here.
  trainers_[3]->owned.buffer->data()[200] ^= std::byte{1};
  Weight(engine)[0] ^= 1;  // of rank 0
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()),
               kAllBytes - kMoveBytes);
  ExpectServes(engine, 1);
}

TEST_P(ResumeTest, ARestartedEngineWhoseMemorySurvivedGoesOn) {
  StartTrainers(kRanks);
  bool die = true;
  Engine engine = StartResuming(false, [&](ReceiverOptions& options) {
    options.derive_hook = [&](const catalog::VersionId&) {
      return die ? absl::InternalError("died here") : absl::OkStatus();
    };
  });
  PublishAll(1);
  EXPECT_FALSE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  Weight(engine)[(kRows - 1) * (kEnd - kBegin)] ^= 4;  // of the last rank
  Restart(engine);
  EXPECT_TRUE(engine.receiver->fenced());
  EXPECT_THAT(engine.receiver->fenced_reason(), HasSubstr("run:0:1"));
  bool told = false;
  const auto workers = store_->ListWorkers("m", Soon());
  for (const catalog::WorkerRecord& worker : *workers) {
    told |= worker.alive && worker.fenced_reason.find("run:0:1 and did not") !=
                                std::string::npos;
  }
  EXPECT_TRUE(told);
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()),
               Resumed(kAllBytes - kMoveBytes));
  ExpectServes(engine, 1);
  // After a commit too, and not when it is not asked for.
  Restart(engine);
  EXPECT_TRUE(engine.receiver->fenced());
  EXPECT_EQ(engine.receiver->fenced_reason(), "no refit has committed yet");
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()),
               Resumed(kAllBytes));
  Restart(engine, /*resume=*/false);
  ExpectReport(engine.receiver->Refit(nullptr, false, Soon()), 0);
  ExpectServes(engine, 1);
}

TEST_P(ResumeTest, TheFileIsDirtyBeforeTheFirstByteAndCleanAfterTheCommit) {
  StartTrainers(1);
  std::vector<std::string> seen;
  Engine engine = StartResuming(false, [&](ReceiverOptions& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      const auto state = ReadStateFile(path_);
      ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
      seen.push_back(absl::StrCat((*state)->dirty ? "dirty " : "clean ",
                                  (*state)->version.step));
    };
  });
  EXPECT_FALSE(std::filesystem::exists(path_));
  for (uint64_t step = 1; step <= 2; ++step) {
    seen.clear();
    PublishAll(step);
    ASSERT_TRUE(engine.receiver->Refit(nullptr, true, Soon()).ok());
    ASSERT_FALSE(seen.empty());
    EXPECT_THAT(seen, ::testing::Each(absl::StrCat("dirty ", step)));
    const auto state = ReadStateFile(path_);
    ASSERT_TRUE(state.ok() && state->has_value());
    EXPECT_FALSE((*state)->dirty);
    EXPECT_EQ((*state)->version.step, step);
    EXPECT_EQ((*state)->model, "m");
    EXPECT_EQ((*state)->process_id, getpid());
    EXPECT_GT((*state)->generation, 0u);
  }
}

TEST_P(ResumeTest, WithAShadowTheFileIsDirtyOnlyWhileTheSwitchGoesOn) {
  StartTrainers(1);
  std::vector<std::string> seen;
  const auto look = [&](const std::string& when) {
    const auto state = ReadStateFile(path_);
    ASSERT_TRUE(state.ok()) << state.status();
    seen.push_back(absl::StrCat(
        when, !state->has_value()
                  ? " none"
                  : absl::StrCat((*state)->dirty ? " dirty " : " clean ",
                                 (*state)->version.step)));
  };
  Engine engine = StartResuming(false, [&](ReceiverOptions& options) {
    options.mode = ReceiveMode::kShadow;
    options.shadow.pause = [&] {
      look("pause");
      return absl::OkStatus();
    };
    options.derive_hook = [&](const catalog::VersionId&) {
      look("derive");
      return absl::OkStatus();
    };
  });
  for (uint64_t step = 1; step <= 2; ++step) {
    PublishAll(step);
    ASSERT_TRUE(engine.receiver->Refit(nullptr, true, Soon()).ok());
  }
  ASSERT_TRUE(engine.receiver->Rollback(Soon()).ok());
  look("end");
  EXPECT_THAT(seen, ::testing::ElementsAre("pause none", "derive dirty 1",
                                           "pause clean 1", "derive dirty 2",
                                           "pause clean 2", "derive dirty 1",
                                           "end clean 1"));
}

TEST_P(ResumeTest, AFileThatCannotBeWrittenStopsTheRefitBeforeAByteMoves) {
  StartTrainers(1);
  const std::filesystem::path folder = path_ + "_folder";
  std::filesystem::create_directory(folder);
  path_ = folder / "weft.state";
  Engine engine = StartResuming();
  std::filesystem::remove_all(folder);
  PublishAll(1);
  const std::string before = BytesOf(engine.owned);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr(folder.string()));
  EXPECT_EQ(BytesOf(engine.owned), before);
}

TEST_P(ResumeTest, TheFileOfAnotherRankIsRefused) {
  StartTrainers(1);
  Engine engine = StartResuming();
  PublishAll(1);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  engine.receiver.reset();
  const absl::Status refused = StartOther();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("state file \"" + path_ + "\" is of a receiver"));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("give each rank a file of its own"));
}

// Two ranks that were given one file wrote over each other's state: whichever
// committed last vouched for both.
TEST_P(ResumeTest, TheFileOfAReceiverThatLivesIsRefused) {
  StartTrainers(1);
  Engine engine = StartResuming();
  const absl::Status refused = StartOther();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(refused.message(),
            "state file \"" + path_ +
                "\" is held by another receiver of this process, " +
                std::to_string(getpid()) +
                "; give each rank a file of its own, or close that one first");
  PublishAll(1);
  ASSERT_TRUE(engine.receiver->Refit(nullptr, false, Soon()).ok());
  ExpectServes(engine, 1);
}

INSTANTIATE_TEST_SUITE_P(Transports, ResumeTest,
                         ::testing::Values("inproc", "shm", "ucx", "cuda"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::session
