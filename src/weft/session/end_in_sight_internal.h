// When a transfer is about to end.
#ifndef WEFT_SESSION_END_IN_SIGHT_INTERNAL_H_
#define WEFT_SESSION_END_IN_SIGHT_INTERNAL_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace weft::session {

// Who has slept for tens of milliseconds, here and at the catalog, takes 0.5 to
// 1 ms for the call that commits, and 0.2 when he was woken just before (16.4
// GB over NVLink, 41 ms; docs/numbers.md). So something is asked of him a
// moment before the end.
//
// Threads: Begin alone, Add from any.
class EndInSight {
 public:
  using Clock = std::chrono::steady_clock;
  // The notice that is given, and what ends sooner than this needs none.
  static constexpr std::chrono::milliseconds kNotice{2};
  static constexpr std::chrono::milliseconds kShort{10};

  void Begin(int64_t total_bytes, Clock::time_point now) {
    total_bytes_ = total_bytes;
    begin_ = now;
    done_bytes_ = 0;
    said_ = false;
  }

  // `bytes` more are done. True once, when what is left takes at most kNotice
  // at the rate so far.
  bool Add(int64_t bytes, Clock::time_point now) {
    const int64_t done = done_bytes_ += bytes;
    const auto elapsed = now - begin_;
    if (elapsed < kShort || done <= 0) return false;
    const double left =
        static_cast<double>(total_bytes_ - done) / static_cast<double>(done);
    if (elapsed * left > kNotice) return false;
    return !said_.exchange(true);
  }

 private:
  int64_t total_bytes_ = 0;
  Clock::time_point begin_;
  std::atomic<int64_t> done_bytes_{0};
  std::atomic<bool> said_{false};
};

}  // namespace weft::session

#endif  // WEFT_SESSION_END_IN_SIGHT_INTERNAL_H_
