#include "weft/catalog/redis/server_clock_internal.h"

namespace weft::catalog {

void ServerClock::Set(TimePoint time, Monotonic::time_point when) {
  if (is_set_) return;
  Raise(time, when);
  is_set_ = true;
}

void ServerClock::Raise(TimePoint time, Monotonic::time_point when) {
  const Monotonic::rep ahead = (time - when).count();
  Monotonic::rep now = ahead_.load();
  while (ahead > now && !ahead_.compare_exchange_weak(now, ahead)) {
  }
}

ServerClock::TimePoint ServerClock::Now() const {
  return fixed_ ? fixed_()
                : Monotonic::now() + Monotonic::duration(ahead_.load());
}

}  // namespace weft::catalog
