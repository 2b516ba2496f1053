#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/plan/box_set.h"
#include "weft/plan/check_series.h"

namespace weft::plan {

using tensor::Box;

void CheckZeroFills(const std::vector<ZeroFill>& zero_fills,
                    const manifest::Placement& target,
                    base::FaultList& faults) {
  using Fill = std::pair<int32_t, const Box*>;
  std::vector<Fill> declared;
  for (size_t i = 0; i < target.stored.size(); ++i) {
    for (const Box& box : target.stored[i].zero_fill) {
      if (!box.empty()) declared.push_back({static_cast<int32_t>(i), &box});
    }
  }
  std::vector<Fill> planned;
  for (const ZeroFill& fill : zero_fills) {
    if (fill.dst_stored < 0 ||
        static_cast<size_t>(fill.dst_stored) >= target.stored.size()) {
      faults.Add(absl::StrCat("a zero fill names stored tensor ",
                              fill.dst_stored, ", which target rank ",
                              target.rank, " lacks"));
      continue;
    }
    planned.push_back({fill.dst_stored, &fill.box});
  }
  const auto less = [](const Fill& a, const Fill& b) {
    return a.first != b.first ? a.first < b.first
                              : LessBox(*a.second, *b.second);
  };
  std::sort(declared.begin(), declared.end(), less);
  std::sort(planned.begin(), planned.end(), less);
  const auto report = [&](const std::vector<Fill>& from,
                          const std::vector<Fill>& without,
                          std::string_view what) {
    std::vector<Fill> rest;
    std::set_difference(from.begin(), from.end(), without.begin(),
                        without.end(), std::back_inserter(rest), less);
    for (const Fill& fill : rest) {
      faults.Add(absl::StrCat("zero fill ", fill.second->ToString(), " of \"",
                              target.stored[fill.first].name,
                              "\" at target rank ", target.rank, " is ",
                              std::string(what)));
    }
  };
  report(declared, planned, "declared but not in the plan");
  report(planned, declared, "in the plan but not declared, or there twice");
}

int64_t ZeroFillBytes(const std::vector<ZeroFill>& zero_fills,
                      const manifest::Placement& target) {
  int64_t bytes = 0;
  for (const ZeroFill& fill : zero_fills) {
    bytes += fill.box.num_elements() *
             tensor::ItemBytes(target.stored[fill.dst_stored].dtype);
  }
  return bytes;
}

}  // namespace weft::plan
