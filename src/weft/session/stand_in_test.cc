// Copies that stand in for publishers that are gone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "weft/session/testing/fan_out.h"

namespace weft::session::testing {
namespace {

using ::testing::HasSubstr;

class StandInTest : public FanOutTest {
 protected:
  void Kill(int64_t rank) {
    trainers_[static_cast<size_t>(rank)]->publisher.reset();
  }
  catalog::VersionRecord Find(uint64_t step) {
    const auto records = *store_->ListVersions("m", Soon());
    for (const auto& record : records) {
      if (record.version.step == step) return record;
    }
    ADD_FAILURE() << "no version of step " << step;
    return {};
  }
  void ExpectState(uint64_t step, catalog::VersionState state) {
    EXPECT_EQ(Find(step).state, state) << Find(step).reason;
  }
};

TEST_P(StandInTest, EnginesFeedEachOtherWhenTheTrainerIsGone) {
  StartTrainers(/*parts=*/2, /*replicas=*/1);
  PublishAll(1);
  auto first = StartEngine({}, true);
  const std::string digest = Refit(*first).digest;
  Kill(0);
  ExpectState(1, catalog::VersionState::kReady);
  Kill(1);
  ExpectState(1, catalog::VersionState::kReady);

  auto second = StartEngine({}, true);
  const RefitReport report = Refit(*second);
  ASSERT_TRUE(report.serving) << report.not_served;
  EXPECT_EQ(BytesFrom(report, "copy"), kRows * kCols * kItemBytes);
  // Whoever it came through, it is what the trainer published.
  EXPECT_EQ(report.digest, digest);
  // A copy of a copy stands in as well, for one of another layout too.
  first.reset();
  ExpectState(1, catalog::VersionState::kReady);
  auto third = StartEngine({.rows = {30, 110}, .columns = {7, 60}}, true);
  EXPECT_EQ(Refit(*third).digest.empty(), false);

  // It ends with the last who holds all of it.
  second.reset();
  ExpectState(1, catalog::VersionState::kGone);
  EXPECT_THAT(Find(1).reason, HasSubstr("the last copy of what it held"));
  const auto late = StartEngine({}, false)->receiver->Refit(
      nullptr, false, base::Deadline::After(std::chrono::milliseconds(50)));
  EXPECT_FALSE(late.ok());
}

// Trainers of the same epoch that come back publish the next step.
TEST_P(StandInTest, ATrainerThatComesBackEndsWhatCopiesKept) {
  StartTrainers(2, 1);
  PublishAll(1);
  auto copy = StartEngine({}, true);
  Refit(*copy);
  StartTrainers(2, 1);
  ExpectState(1, catalog::VersionState::kReady);
  auto meanwhile = StartEngine({}, false);
  EXPECT_EQ(Refit(*meanwhile).version.step, 1u);
  PublishAll(2);
  ExpectState(1, catalog::VersionState::kGone);
  for (Engine* engine : {copy.get(), meanwhile.get()}) {
    EXPECT_EQ(Refit(*engine).version.step, 2u);
  }
  // The copy has come to stand in for the new ones too.
  Kill(0);
  Kill(1);
  EXPECT_EQ(BytesFrom(Refit(*meanwhile), "copy"), kRows * kCols * kItemBytes);
}

// Trainers of another layout in the same epoch: what a copy was registered with
// is not what it could stand in for.
TEST_P(StandInTest, ACopyStandsInForPublishersThatCameAfterIt) {
  StartTrainers(2, 1);
  PublishAll(1);
  auto copy = StartEngine({}, true);
  Refit(*copy);
  StartTrainers(4, 1);
  PublishAll(2);
  ASSERT_TRUE(Refit(*copy).serving);
  for (int64_t rank = 0; rank < 4; ++rank) Kill(rank);
  ExpectState(2, catalog::VersionState::kReady);
  auto later = StartEngine({}, false);
  EXPECT_EQ(Refit(*later).version.step, 2u);
}

TEST_P(StandInTest, ACopyOfAPartKeepsTheRanksThatItHolds) {
  StartTrainers(2, 1);
  PublishAll(1);
  auto top = StartEngine({.rows = {0, kRows / 2 + 3}}, true);
  auto left = StartEngine({.columns = {0, kCols - 1}}, true);
  ASSERT_TRUE(Refit(*top).serving);
  ASSERT_TRUE(Refit(*left).serving);
  Kill(0);
  ExpectState(1, catalog::VersionState::kReady);
  auto all = StartEngine({}, false);
  const RefitReport report = Refit(*all);
  EXPECT_GT(BytesFrom(report, "copy"), 0);
  EXPECT_GT(BytesFrom(report, "publisher rank 1"), 0);
  Kill(1);
  ExpectState(1, catalog::VersionState::kGone);
}

TEST_P(StandInTest, ALeaseOutlivesTrainersThatDieInMidRefit) {
  StartTrainers(2, 1);
  PublishAll(1);
  auto copy = StartEngine({}, true);
  Refit(*copy);
  bool dead = false;
  std::unique_ptr<Engine> second;
  second = StartEngine({}, false, /*faulty=*/false, [&](auto& options) {
    options.execute.progress = [&](int64_t, int64_t) {
      if (std::exchange(dead, true)) return;
      Kill(0);
      Kill(1);
    };
  });
  const RefitReport report = Refit(*second);
  EXPECT_TRUE(dead);
  EXPECT_EQ(second->receiver->counters().refits_failed, 0);
  EXPECT_EQ(report.version.step, 1u);
}

// What is not served keeps nothing.
TEST_P(StandInTest, WhatIsNotServedStandsInForNobody) {
  StartTrainers(1, 1);
  PublishAll(1);
  auto engine = StartSpoiler();
  ASSERT_TRUE(engine->receiver->Refit(nullptr, false, Soon()).ok());
  Kill(0);
  ExpectState(1, catalog::VersionState::kGone);
}

// The bytes are proven as ever: nobody is left to take them from instead.
TEST_P(StandInTest, ACopyThatRotsAloneIsRefused) {
  StartTrainers(1, 1);
  PublishAll(1);
  auto rotten = StartEngine({}, true);
  ASSERT_TRUE(Refit(*rotten).serving);
  Kill(0);
  StoredBase(rotten->owned.memory, 0)[4321] ^= std::byte{0x10};
  auto second = StartEngine({}, false);
  const auto report = second->receiver->Refit(nullptr, false, Soon());
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()), HasSubstr(kWeight));
  EXPECT_TRUE(second->receiver->fenced());
}

INSTANTIATE_TEST_SUITE_P(Transports, StandInTest,
                         ::testing::Values("inproc", "shm", "ucx"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::session::testing
