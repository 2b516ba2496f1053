#include "weft/base/deadline.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace weft::base {
namespace {
constexpr std::chrono::hours kForever{24 * 36525};
}  // namespace

Deadline Deadline::After(std::chrono::nanoseconds from_now) {
  if (from_now > kForever) return Infinite();
  return Deadline(Clock::now() + from_now);
}

std::chrono::nanoseconds Deadline::Remaining() const {
  if (when_ == Clock::time_point::max()) return kForever;
  return std::max(std::chrono::nanoseconds(0),
                  std::chrono::nanoseconds(when_ - Clock::now()));
}

double Deadline::RemainingSeconds() const {
  return std::chrono::duration<double>(Remaining()).count();
}

absl::Status Deadline::Check(std::string_view doing) const {
  if (!Passed()) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("deadline passed while ", std::string(doing)));
}

}  // namespace weft::base
