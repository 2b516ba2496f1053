#include "weft/layout/mode.h"

#include <cassert>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/checked.h"

namespace weft::layout {

int64_t ExtentOf(const DimModes& modes) {
  int64_t extent = 1;
  for (const Mode& mode : modes) extent *= mode.extent;
  return extent;
}

int64_t OffsetOf(const DimModes& modes, int64_t i) {
  int64_t offset = 0;
  for (const Mode& mode : modes) {
    offset += i % mode.extent * mode.stride;
    i /= mode.extent;
  }
  assert(i == 0);
  return offset;
}

std::string ToString(const DimModes& modes) {
  if (modes.empty()) return "(1:0)";
  if (modes.size() == 1) {
    return absl::StrCat("(", modes[0].extent, ":", modes[0].stride, ")");
  }
  const auto join = [&modes](int64_t Mode::*field) {
    return absl::StrJoin(modes, ",",
                         [field](std::string* text, const Mode& mode) {
                           absl::StrAppend(text, mode.*field);
                         });
  };
  return absl::StrCat("((", join(&Mode::extent), "):(", join(&Mode::stride),
                      "))");
}

DimModes Coalesce(const DimModes& modes) {
  DimModes result;
  for (const Mode& mode : modes) {
    if (mode.extent == 1) continue;
    if (!result.empty()) {
      Mode& last = result.back();
      const std::optional<int64_t> next =
          base::CheckedMul(last.extent, last.stride);
      if (next == mode.stride) {
        last.extent *= mode.extent;
        continue;
      }
    }
    result.push_back(mode);
  }
  return result;
}

}  // namespace weft::layout
