// A point on the monotonic clock after which a wait must end with
// kDeadlineExceeded. Rooms below session never choose one: they are given it.
#ifndef WEFT_BASE_DEADLINE_H_
#define WEFT_BASE_DEADLINE_H_

#include <chrono>
#include <string_view>

#include "absl/status/status.h"

namespace weft::base {

class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  static Deadline At(Clock::time_point when) { return Deadline(when); }
  static Deadline After(std::chrono::nanoseconds from_now);
  // Never passes. Only for tests and for waits that another deadline bounds.
  static Deadline Infinite() { return Deadline(Clock::time_point::max()); }

  bool Passed() const { return Clock::now() >= when_; }
  // Time left; zero once passed; capped at 100 years for Infinite().
  std::chrono::nanoseconds Remaining() const;
  double RemainingSeconds() const;
  Clock::time_point when() const { return when_; }

  // OK while time is left, else kDeadlineExceeded "deadline passed while
  // <doing>".
  absl::Status Check(std::string_view doing) const;

 private:
  explicit Deadline(Clock::time_point when) : when_(when) {}
  Clock::time_point when_;
};

}  // namespace weft::base

#endif  // WEFT_BASE_DEADLINE_H_
