#include <gtest/gtest.h>

#include <chrono>

#include "weft/catalog/redis/server_clock_internal.h"

namespace weft::catalog {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using Clock = ServerClock::Monotonic;

// Now, between two looks at the monotonic clock that time has been added to.
void ExpectAhead(const ServerClock& clock, Clock::duration ahead) {
  const auto before = Clock::now() + ahead;
  const auto now = clock.Now();
  EXPECT_LE(before, now);
  EXPECT_LE(now, Clock::now() + ahead);
}

TEST(ServerClockTest, GoesOnFromWhatRedisSaidFirst) {
  ServerClock clock(nullptr);
  EXPECT_FALSE(clock.is_set());
  const auto when = Clock::now();
  clock.Set(when + hours(400'000), when);
  EXPECT_TRUE(clock.is_set());
  ExpectAhead(clock, hours(400'000));
  // Somebody has set Redis's clock, forward and back.
  clock.Set(when + hours(400'001), when);
  clock.Set(when + hours(399'999), when);
  ExpectAhead(clock, hours(400'000));
}

TEST(ServerClockTest, IsNeverBehindWhatAnotherServerSaid) {
  ServerClock clock(nullptr);
  const auto when = Clock::now();
  clock.Set(when + hours(7), when);
  clock.Raise(when + hours(6), when);
  ExpectAhead(clock, hours(7));
  clock.Raise(when + hours(8), when);
  ExpectAhead(clock, hours(8));
  // It goes on from there: an hour later the same is no news.
  clock.Raise(when + hours(9), when + hours(1));
  ExpectAhead(clock, hours(8));
  clock.Raise(when + hours(9) + seconds(1), when + hours(1));
  ExpectAhead(clock, hours(8) + seconds(1));
}

TEST(ServerClockTest, IsThatOfATest) {
  auto now = Clock::time_point(hours(5));
  ServerClock clock([&now] { return now; });
  EXPECT_TRUE(clock.is_set());
  clock.Set(Clock::now() + hours(1), Clock::now());
  clock.Raise(Clock::now() + hours(1), Clock::now());
  EXPECT_EQ(clock.Now(), now);
  now += hours(1);
  EXPECT_EQ(clock.Now(), now);
}

}  // namespace
}  // namespace weft::catalog
