#include "gtest/gtest.h"
#include "weft/session/end_in_sight_internal.h"

namespace weft::session {
namespace {

using std::chrono::milliseconds;

TEST(EndInSightTest, IsSaidOnceWhenTwoMillisecondsAreLeft) {
  EndInSight end;
  const auto start = EndInSight::Clock::now();
  for (int refit = 0; refit < 2; ++refit) {
    end.Begin(1000, start);
    EXPECT_FALSE(end.Add(500, start + milliseconds(20)));
    EXPECT_FALSE(end.Add(440, start + milliseconds(38)));  // 2.4 ms
    EXPECT_TRUE(end.Add(20, start + milliseconds(39)));
    EXPECT_FALSE(end.Add(40, start + milliseconds(40)));
  }
}

TEST(EndInSightTest, WhatIsShortOrNothingNeedsNone) {
  EndInSight end;
  const auto start = EndInSight::Clock::now();
  end.Begin(1000, start);
  EXPECT_FALSE(end.Add(999, start + milliseconds(9)));
  end.Begin(0, start);
  EXPECT_FALSE(end.Add(0, start + milliseconds(40)));
}

}  // namespace
}  // namespace weft::session
