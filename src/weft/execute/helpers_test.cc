#include <gtest/gtest.h>

#include <atomic>
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
  for (int i = 0; i < kJobs; ++i) {
    helpers.Add([&done, i] { ++done[static_cast<size_t>(i)]; });
    if (i % 7 == 0) helpers.DoOne();
  }
  while (!helpers.Idle()) helpers.DoOne();
  for (const std::atomic<int>& each : done) EXPECT_EQ(each, 1);
}

INSTANTIATE_TEST_SUITE_P(Threads, HelpersTest, ::testing::Values(0, 1, 3));

TEST(HelpersTest, TheEndWaitsForWhatHasBegunAndDropsTheRest) {
  std::mutex held;
  std::atomic<bool> has_begun{false};
  std::atomic<bool> has_ended{false};
  std::atomic<int> others{0};
  held.lock();
  {
    Helpers helpers(1);
    helpers.Add([&] {
      has_begun = true;
      const std::lock_guard lock(held);
      has_ended = true;
    });
    while (!has_begun) std::this_thread::yield();
    for (int i = 0; i < 3; ++i) helpers.Add([&] { ++others; });
    EXPECT_FALSE(helpers.Idle());
    EXPECT_TRUE(helpers.DoOne());
    EXPECT_EQ(others, 1);
    EXPECT_FALSE(has_ended);
    held.unlock();
  }
  EXPECT_TRUE(has_ended);
}

}  // namespace
}  // namespace weft::execute
