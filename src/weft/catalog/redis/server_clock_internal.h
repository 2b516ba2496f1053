// What time it is for all servers of one Redis, whatever their hosts think.
#ifndef WEFT_CATALOG_REDIS_SERVER_CLOCK_INTERNAL_H_
#define WEFT_CATALOG_REDIS_SERVER_CLOCK_INTERNAL_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <utility>

#include "weft/base/deadline.h"

namespace weft::catalog {

// The state's time is the largest that any server has proposed. A server whose
// own clock lay behind that would see nothing end until it has caught up: an
// hour in which dead trainers count as alive. So the host's clock is not asked.
// It is Redis's when the server starts, goes on with the monotonic clock of the
// host, which nobody sets, and is never behind what another server has said.
// Thread-safe.
class ServerClock {
 public:
  using Monotonic = base::Deadline::Clock;
  // Since 1970.
  using TimePoint = Monotonic::time_point;

  // With `fixed`, which a test may give, it is that and nothing else.
  explicit ServerClock(std::function<TimePoint()> fixed)
      : fixed_(std::move(fixed)) {}

  bool is_set() const { return fixed_ != nullptr || is_set_; }
  // It was `time` at `when`. Only the first call counts: of a clock that was
  // put forward later leases would end early.
  void Set(TimePoint time, Monotonic::time_point when);
  // Another server's, seen at `when`.
  void Raise(TimePoint time, Monotonic::time_point when);

  TimePoint Now() const;

 private:
  const std::function<TimePoint()> fixed_;
  std::atomic<bool> is_set_{false};
  std::atomic<Monotonic::rep> ahead_{0};  // of the monotonic clock
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_REDIS_SERVER_CLOCK_INTERNAL_H_
