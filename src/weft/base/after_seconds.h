// A deadline as people and Python give one.
#ifndef WEFT_BASE_AFTER_SECONDS_H_
#define WEFT_BASE_AFTER_SECONDS_H_

#include <chrono>
#include <cstdint>

#include "weft/base/deadline.h"

namespace weft::base {

// So many from now; at once for less than none, never for more than anybody
// waits for and for what is no number.
inline Deadline AfterSeconds(double seconds) {
  constexpr double kForever = 1e9;
  if (!(seconds < kForever)) return Deadline::Infinite();
  if (seconds < 0) seconds = 0;
  return Deadline::After(
      std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)));
}

}  // namespace weft::base

#endif  // WEFT_BASE_AFTER_SECONDS_H_
