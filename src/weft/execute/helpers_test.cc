#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "weft/execute/helpers_internal.h"

namespace weft::execute {
namespace {

// With helpers, and with the caller alone.
class HelpersTest : public ::testing::TestWithParam<size_t> {};

TEST_P(HelpersTest, EveryJobIsDoneOnce) {
  constexpr int kJobs = 1000;
  std::vector<std::atomic<int>> done(kJobs);
  Helpers helpers(GetParam());
  const auto job = [&done](int i) {
    return [&done, i] { ++done[static_cast<size_t>(i)]; };
  };
  for (int i = 0; i < kJobs; i += 10) {
    helpers.Add(job(i));
    std::vector<std::function<void()>> more;
    for (int j = i + 1; j < i + 10; ++j) more.push_back(job(j));
    helpers.Add(std::move(more));
    if (i % 7 == 0) helpers.DoOne();
  }
  while (!helpers.Idle()) helpers.DoOne();
  for (const std::atomic<int>& each : done) EXPECT_EQ(each, 1);
}

TEST_P(HelpersTest, TakeJobsAgainAfterTheyHaveFinished) {
  Helpers helpers(GetParam());
  std::atomic<int> done{0};
  for (int round = 1; round <= 50; ++round) {
    helpers.Add([&] { ++done; });
    while (!helpers.Idle()) helpers.DoOne();
    helpers.Finish();
    EXPECT_EQ(done, round);
  }
  EXPECT_EQ(helpers.num_threads(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Threads, HelpersTest, ::testing::Values(0, 1, 3));

TEST(HelpersTest, FinishWaitsForWhatHasBegunAndDropsTheRest) {
  std::mutex held;
  std::atomic<bool> has_begun{false};
  std::atomic<bool> has_ended{false};
  std::atomic<int> others{0};
  held.lock();
  Helpers helpers(1);
  helpers.Add([&] {
    has_begun = true;
    const std::lock_guard lock(held);
    has_ended = true;
  });
  while (!has_begun) std::this_thread::yield();
  auto owned = std::make_shared<int>(0);
  const std::weak_ptr<int> jobs_left = owned;
  for (int i = 0; i < 3; ++i) helpers.Add([&others, owned] { ++others; });
  owned.reset();
  EXPECT_FALSE(helpers.Idle());
  EXPECT_TRUE(helpers.DoOne());
  EXPECT_EQ(others, 1);
  EXPECT_FALSE(has_ended);
  std::thread finishing([&] { helpers.Finish(); });
  while (!jobs_left.expired()) std::this_thread::yield();
  EXPECT_FALSE(has_ended);
  held.unlock();
  finishing.join();
  EXPECT_TRUE(has_ended);
  EXPECT_EQ(others, 1);
  EXPECT_TRUE(helpers.Idle());
}

}  // namespace
}  // namespace weft::execute
