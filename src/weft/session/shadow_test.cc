// Receiving beside what is served: the live set holds exactly one version at
// any time, whatever fails, and goes back on request.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/session/shadow_set_internal.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using testing::BytesOf;
using testing::ColumnCut;
using ::testing::ElementsAre;
using testing::Expected;
using testing::FillPlain;
using ::testing::HasSubstr;
using testing::Soon;

class ShadowTest : public testing::PlainSession {
 protected:
  Engine StartShadow(
      bool faulty = false,
      const std::function<void(ReceiverOptions&)>& adjust = nullptr) {
    return StartEngine(ColumnCut(kRows, kCols, 37, 101), faulty,
                       [&](ReceiverOptions& options) {
                         options.mode = ReceiveMode::kShadow;
                         if (adjust) adjust(options);
                       });
  }

  static void RefitTo(Engine& engine, uint64_t step) {
    const auto report = engine.receiver->Refit(nullptr, false, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_EQ(report->version.step, step);
    ASSERT_EQ(report->unrecorded, "");
  }

  static void ExpectServes(const Engine& engine, uint64_t step) {
    EXPECT_FALSE(engine.receiver->fenced()) << engine.receiver->fenced_reason();
    ASSERT_TRUE(engine.receiver->committed().has_value());
    EXPECT_EQ(engine.receiver->committed()->step, step);
    EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, step));
  }

  // What the catalog says of the only receiver that lives.
  catalog::WorkerRecord Told() {
    const auto workers = store_->ListWorkers("m", Soon());
    for (const catalog::WorkerRecord& worker : *workers) {
      if (worker.alive && worker.info.role == catalog::Role::kReceiver) {
        return worker;
      }
    }
    return {};
  }

  // The faults strike what follows the epoch words.
  static void FlipAByteOfTheNext(Engine& engine) {
    ASSERT_TRUE(engine.receiver->Prepare(Soon()).ok());
    transport::Fault flip;
    flip.nth = static_cast<int64_t>(engine.receiver->plan()->peers.size());
    engine.faults->Add(flip);
  }
};

// All stored tensors, one after the other.
std::string StoredOf(const manifest::Placement& placement,
                     const RankMemory& memory) {
  std::string bytes;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    bytes.append(reinterpret_cast<const char*>(StoredBase(memory, i)),
                 static_cast<size_t>(*StoredBytes(placement.stored[i])));
  }
  return bytes;
}

std::string ExpectedStored(const manifest::Placement& placement,
                           uint64_t step) {
  OwnedRankMemory owned = *AllocateFor(placement, memory::MemoryKind::kHost);
  FillPlain(placement, owned.memory, step);
  return StoredOf(placement, owned.memory);
}

TEST_P(ShadowTest, TheLastVersionIsServedWhileTheNextOneArrives) {
  StartTrainers(3);
  uint64_t served = 0;
  int64_t looks = 0;
  Engine engine;
  engine = StartShadow(false, [&](ReceiverOptions& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      if (served == 0) return;
      ++looks;
      ExpectServes(engine, served);
    };
  });
  EXPECT_TRUE(engine.receiver->fenced());
  for (uint64_t step = 1; step <= 4; ++step) {
    PublishAll(step);
    const auto report = engine.receiver->Refit(nullptr, true, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    served = step;
    ExpectServes(engine, step);
    EXPECT_EQ(report->bytes_copied, 2 * (kRows * (101 - 37) + kCols));
    EXPECT_GT(report->pause_seconds, 0);
    EXPECT_EQ(Told().committed.step, step);
    EXPECT_EQ(Told().fenced_reason, "");
  }
  EXPECT_GT(looks, 0);
}

TEST_P(ShadowTest, ATransferThatFailsLeavesTheLiveVersionServing) {
  if (GetParam() == "cuda") GTEST_SKIP() << "no wire to inject faults into";
  StartTrainers(2);
  Engine engine = StartShadow(/*faulty=*/true);
  PublishAll(1);
  RefitTo(engine, 1);
  PublishAll(2);
  FlipAByteOfTheNext(engine);
  const auto torn = engine.receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(absl::IsDataLoss(torn.status())) << torn.status();
  ExpectServes(engine, 1);
  EXPECT_EQ(Told().committed.step, 1u);
  EXPECT_EQ(Told().fenced_reason, "");
  // The second set was overwritten: there is nothing to go back to.
  const auto back = engine.receiver->Rollback(Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(back.status())) << back.status();
  ExpectServes(engine, 1);
  RefitTo(engine, 2);
  ExpectServes(engine, 2);
}

TEST_P(ShadowTest, AnUpdateDuringTheTransferTouchesNothingLive) {
  StartTrainers(1);
  bool armed = false;
  Engine engine = StartShadow(false, [&](ReceiverOptions& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      if (!std::exchange(armed, false)) return;
      const base::Deadline now =
          base::Deadline::After(std::chrono::nanoseconds(0));
      ASSERT_TRUE(trainers_[0]->publisher->BeginUpdate(now).ok());
      FillPlain(trainers_[0]->placement, trainers_[0]->owned.memory, 3);
    };
  });
  PublishAll(1);
  RefitTo(engine, 1);
  PublishAll(2);
  armed = true;
  const auto report = engine.receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(absl::IsAborted(report.status())) << report.status();
  ExpectServes(engine, 1);
  ASSERT_TRUE(trainers_[0]->publisher->Publish(3, Soon()).ok());
  RefitTo(engine, 3);
  ExpectServes(engine, 3);
}

TEST_P(ShadowTest, RollbackGoesBackAndForward) {
  StartTrainers(2);
  Engine engine = StartShadow();
  const auto none = engine.receiver->Rollback(Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(none.status())) << none.status();
  PublishAll(1);
  RefitTo(engine, 1);
  EXPECT_FALSE(engine.receiver->Rollback(Soon()).ok());
  PublishAll(2);
  RefitTo(engine, 2);
  trainers_.clear();  // needs nobody
  for (const uint64_t step : {1, 2, 1}) {
    const auto report = engine.receiver->Rollback(Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->version.step, step);
    EXPECT_EQ(report->unrecorded, "");
    ExpectServes(engine, step);
    EXPECT_EQ(Told().committed.step, step);
  }
  StartTrainers(2, /*epoch=*/1);
  PublishAll(7);
  RefitTo(engine, 7);
  ExpectServes(engine, 7);
  ASSERT_TRUE(engine.receiver->Rollback(Soon()).ok());
  ExpectServes(engine, 1);
}

TEST_P(ShadowTest, WhatIsOnlyCopiedKeepsNoPreviousVersion) {
  StartTrainers(2);
  Engine engine = StartShadow(false, [](ReceiverOptions& options) {
    options.shadow.keep_previous = false;
  });
  for (uint64_t step = 1; step <= 2; ++step) {
    PublishAll(step);
    RefitTo(engine, step);
    ExpectServes(engine, step);
  }
  const auto back = engine.receiver->Rollback(Soon());
  EXPECT_THAT(std::string(back.status().message()),
              HasSubstr("was not told to keep it"));
  ExpectServes(engine, 2);
}

TEST_P(ShadowTest, InPlaceThereIsNothingToGoBackTo) {
  StartTrainers(1);
  Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, 10));
  PublishAll(1);
  RefitTo(engine, 1);
  const auto back = engine.receiver->Rollback(Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(back.status())) << back.status();
  ExpectServes(engine, 1);
}

TEST_P(ShadowTest, AddressesAreSwapped) {
  StartTrainers(2);
  const RankMemory* live = nullptr;
  Engine engine = StartShadow(false, [&](ReceiverOptions& options) {
    options.shadow.swap = [&](const RankMemory& now_live) {
      live = &now_live;
      return absl::OkStatus();
    };
  });
  const RankMemory* last = nullptr;
  for (uint64_t step = 1; step <= 4; ++step) {
    PublishAll(step);
    const auto report = engine.receiver->Refit(nullptr, true, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->bytes_copied, 0);
    EXPECT_NE(live, last);
    last = live;
    EXPECT_EQ(StoredOf(engine.placement, *live),
              ExpectedStored(engine.placement, step));
  }
  ASSERT_TRUE(engine.receiver->Rollback(Soon()).ok());
  EXPECT_NE(live, last);
  EXPECT_EQ(StoredOf(engine.placement, *live),
            ExpectedStored(engine.placement, 3));
  // The set that is not live now takes the next version.
  PublishAll(5);
  RefitTo(engine, 5);
  EXPECT_EQ(live, last);
  EXPECT_EQ(StoredOf(engine.placement, *live),
            ExpectedStored(engine.placement, 5));
}

TEST_P(ShadowTest, HooksComeInOrderAndTheLatchIsSetBetweenThem) {
  StartTrainers(1);
  std::vector<std::string> calls;
  Engine engine;
  const auto note = [&](const std::string& what) {
    calls.push_back(
        absl::StrCat(what, engine.receiver->fenced() ? " fenced" : ""));
    return absl::OkStatus();
  };
  engine = StartShadow(false, [&](ReceiverOptions& options) {
    options.shadow.pause = [&] { return note("pause"); };
    options.shadow.resume = [&] { return note("resume"); };
    options.derive_hook = [&](const catalog::VersionId& version) {
      return note(absl::StrCat("derive ", version.step));
    };
  });
  PublishAll(1);
  RefitTo(engine, 1);
  PublishAll(2);
  RefitTo(engine, 2);
  ASSERT_TRUE(engine.receiver->Rollback(Soon()).ok());
  EXPECT_THAT(calls, ElementsAre("pause fenced", "derive 1 fenced", "resume",
                                 "pause", "derive 2 fenced", "resume", "pause",
                                 "derive 1 fenced", "resume"));
}

TEST_P(ShadowTest, AnEngineThatCannotPauseKeepsServing) {
  StartTrainers(1);
  bool busy = false;
  int resumed = 0;
  Engine engine = StartShadow(false, [&](ReceiverOptions& options) {
    options.shadow.pause = [&] {
      return busy ? absl::UnavailableError("a batch runs") : absl::OkStatus();
    };
    options.shadow.resume = [&] {
      ++resumed;
      return absl::OkStatus();
    };
  });
  PublishAll(1);
  RefitTo(engine, 1);
  PublishAll(2);
  busy = true;
  const auto report = engine.receiver->Refit(nullptr, true, Soon());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("hook that pauses the engine: a batch runs"));
  EXPECT_EQ(resumed, 1);
  ExpectServes(engine, 1);
  // What has arrived was never live.
  busy = false;
  EXPECT_TRUE(
      absl::IsFailedPrecondition(engine.receiver->Rollback(Soon()).status()));
  RefitTo(engine, 2);
  ExpectServes(engine, 2);
}

// A full disk fenced an engine whose weights nobody had touched, and left it
// paused.
TEST_P(ShadowTest, AStateFileThatCannotBeWrittenLeavesTheLiveVersionServing) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) /
      absl::StrCat("weft_shadow_", getpid());
  std::filesystem::create_directory(folder);
  StartTrainers(1);
  int paused = 0;
  Engine engine = StartShadow(false, [&](ReceiverOptions& options) {
    options.state_file = folder / "state";
    options.shadow.pause = [&] {
      ++paused;
      return absl::OkStatus();
    };
    options.shadow.resume = [&] {
      --paused;
      return absl::OkStatus();
    };
  });
  PublishAll(1);
  RefitTo(engine, 1);
  PublishAll(2);
  std::filesystem::remove_all(folder);
  const auto report = engine.receiver->Refit(nullptr, true, Soon());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("cannot create state file"));
  EXPECT_EQ(paused, 0);
  ExpectServes(engine, 1);
  EXPECT_EQ(Told().fenced_reason, "");
  EXPECT_EQ(Told().committed.step, 1u);
  std::filesystem::create_directory(folder);
  RefitTo(engine, 2);
  ExpectServes(engine, 2);
  std::filesystem::remove_all(folder);
}

TEST_P(ShadowTest, AHookThatFailsFencesAndARollbackHeals) {
  StartTrainers(1);
  Engine engine = StartShadow(false, [](ReceiverOptions& options) {
    options.derive_hook = [](const catalog::VersionId& version) {
      return version.step == 2 ? absl::InternalError("absorbed are stale")
                               : absl::OkStatus();
    };
  });
  PublishAll(1);
  RefitTo(engine, 1);
  PublishAll(2);
  EXPECT_FALSE(engine.receiver->Refit(nullptr, true, Soon()).ok());
  EXPECT_TRUE(engine.receiver->fenced());
  EXPECT_THAT(Told().fenced_reason, HasSubstr("absorbed are stale"));
  EXPECT_EQ(Told().committed.step, 1u);
  const auto back = engine.receiver->Rollback(Soon());
  ASSERT_TRUE(back.ok()) << back.status();
  ExpectServes(engine, 1);
  EXPECT_EQ(Told().fenced_reason, "");
}

TEST_P(ShadowTest, ASecondSetOverItsBudgetIsRefusedWithBothFigures) {
  Engine engine;
  engine.placement = ColumnCut(kRows, kCols, 0, 64);
  engine.owned =
      testing::AllocateUnder(GetParam(), engine.placement, testing::kEngineGpu);
  ReceiverOptions options;
  options.execute.device = testing::FakeGpuOptions();
  options.model = "m";
  options.placement = engine.placement;
  options.memory = engine.owned.memory;
  options.catalog = store_;
  options.mode = ReceiveMode::kShadow;
  const int64_t least = 2 * (kRows * 64 + kCols);
  options.shadow.budget_bytes = least - 1;
  const auto refused = Receiver::Create(options, Soon());
  ASSERT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr(absl::StrCat("its budget is ", least - 1, " bytes")));
  EXPECT_THAT(std::string(refused.status().message()),
              ::testing::MatchesRegex("the second set of buffers needs [0-9]+ "
                                      "bytes.*"));
}

INSTANTIATE_TEST_SUITE_P(Transports, ShadowTest,
                         ::testing::Values("inproc", "shm", "ucx", "cuda",
                                           "gpu_ucx", "gpu_host"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

uint8_t ValueAt(const std::byte* address) {
  return static_cast<uint8_t>(
      (reinterpret_cast<uintptr_t>(address) * 0x9e3779b97f4a7c15u) >> 56);
}

// Stored tensors that overlap, touch, have no bytes, lie in several areas.
TEST(ShadowSetTest, AnythingThatTensorsShareChangesPlacesOnce) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    const int64_t large = round == 0 ? int64_t{3} << 20 : 3000;
    ReceiverOptions options;
    options.mode = ReceiveMode::kShadow;
    options.execute.num_threads = 1 + static_cast<int>(random() % 3);
    options.shadow.keep_previous = random() % 2 == 0;
    std::vector<std::vector<std::byte>> areas(1 + random() % 3);
    for (auto& area : areas) {
      area.resize(1 + random() % large);
      for (std::byte& each : area) each = std::byte(random());
      options.memory.areas.push_back({absl::MakeSpan(area)});
    }
    for (size_t i = 0; i < 1 + random() % 8; ++i) {
      const auto area = static_cast<int32_t>(random() % areas.size());
      const auto size = static_cast<int64_t>(areas[area].size());
      const int64_t begin = random() % size;
      const int64_t bytes = random() % (size - begin + 1);
      options.placement.stored.push_back(
          {absl::StrCat("t", i), tensor::DType::kU8, {bytes}, {}, {}});
      options.memory.stored.push_back({area, begin});
    }
    const std::vector<std::vector<std::byte>> before = areas;
    auto shadow = ShadowSet::Make(options);
    ASSERT_TRUE(shadow.ok()) << shadow.status();
    const RankMemory& own = (*shadow)->receiving_memory();
    for (size_t i = 0; i < options.placement.stored.size(); ++i) {
      const std::byte* const live = StoredBase(options.memory, i);
      std::byte* const received = StoredBase(own, i);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(live) % 64,
                reinterpret_cast<uintptr_t>(received) % 64);
      for (int64_t k = 0; k < options.placement.stored[i].shape[0]; ++k) {
        received[k] = std::byte(ValueAt(live + k));
      }
    }
    std::vector<std::vector<std::byte>> expected = before;
    int64_t distinct_bytes = 0;
    std::vector<std::vector<bool>> stored(areas.size());
    for (size_t a = 0; a < areas.size(); ++a) stored[a].resize(areas[a].size());
    for (size_t i = 0; i < options.placement.stored.size(); ++i) {
      const manifest::StoredLocation& where = options.memory.stored[i];
      for (int64_t k = 0; k < options.placement.stored[i].shape[0]; ++k) {
        const int64_t at = where.offset_bytes + k;
        if (stored[where.buffer][at]) continue;
        stored[where.buffer][at] = true;
        ++distinct_bytes;
        expected[where.buffer][at] =
            std::byte(ValueAt(areas[where.buffer].data() + at));
      }
    }
    const auto copied = (*shadow)->Switch(Soon());
    ASSERT_TRUE(copied.ok()) << copied.status();
    EXPECT_EQ(*copied, distinct_bytes);
    ASSERT_EQ(areas, expected);
    for (size_t i = 0; i < options.placement.stored.size(); ++i) {
      const manifest::StoredLocation& where = options.memory.stored[i];
      for (int64_t k = 0; k < options.placement.stored[i].shape[0]; ++k) {
        const std::byte held =
            options.shadow.keep_previous
                ? before[where.buffer][where.offset_bytes + k]
                : expected[where.buffer][where.offset_bytes + k];
        ASSERT_EQ(StoredBase(own, i)[k], held);
      }
    }
  }
}

}  // namespace
}  // namespace weft::session
