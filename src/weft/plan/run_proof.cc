// How runs are proven, without the algorithm that made them.
//
// A run is a function of its digits i: (src, dst) offsets that grow by fixed
// strides. The destination map is read backwards: its own digits, sorted by
// stride, are a mixed-radix system in which every offset has one reading, so
// the run's first destination offset names one logical coordinate x0, and each
// destination stride is a step of one digit (or, after a carry that fills the
// digit, of two: then the mode is split there). So each mode of the run becomes
// a step along one logical dimension. From here on everything is checked:
//
//   (1) no digit of the destination map overflows anywhere in the run: the map
//       is affine on the run's coordinates, with the run's strides;
//   (2) the same for the digits of the source map, from its own reading of x0;
//   (3) along each dimension the steps are a mixed radix without gaps, so the
//       run's coordinates are a box, each once;
//   (4) the boxes of all runs lie in `box`, are disjoint and as many elements.
//
// (1)-(4) imply the claim. Runs with gaps that only together are a box (two
// maps whose blocks do not nest) have no such proof. They are accepted only if
// they are, one for one, what layout::CommonRuns says, whose own tests compare
// it element by element.
#include "weft/plan/run_proof.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/plan/box_set.h"
#include "weft/plan/move_runs.h"

namespace weft::plan {
namespace {

using layout::IndexMap;
using layout::Mode;
using layout::Run;
using layout::RunMode;
using tensor::Box;
using tensor::Range;

struct Digit {
  int64_t stride = 0;
  int64_t extent = 1;
  int64_t weight = 1;  // logical coordinates that one step of it is
  int dim = 0;
  int64_t last = 0;  // largest value that the run gives it
};
using Digits = absl::InlinedVector<Digit, 8>;

struct Step {
  int dim = 0;
  int64_t length = 1;  // logical coordinates
  int64_t extent = 1;
  int64_t src_stride = 0;
};
using Steps = absl::InlinedVector<Step, 8>;
using Ranges = absl::InlinedVector<Range, 4>;

// The map's digits by ascending stride, or nullopt when offsets could have two
// readings.
std::optional<Digits> SortedDigits(const IndexMap& map) {
  Digits digits;
  for (int dim = 0; dim < map.box().rank(); ++dim) {
    int64_t weight = 1;
    for (const Mode& mode : map.modes(dim)) {
      digits.push_back({mode.stride, mode.extent, weight, dim, 0});
      weight *= mode.extent;
    }
  }
  std::sort(digits.begin(), digits.end(),
            [](const Digit& a, const Digit& b) { return a.stride < b.stride; });
  int64_t reach = 0;
  for (const Digit& digit : digits) {
    if (digit.stride <= reach) return std::nullopt;
    reach += digit.stride * (digit.extent - 1);
  }
  return digits;
}

// Reads `offset` into the digits and the coordinates of its x.
bool ReadOffset(const IndexMap& map, int64_t offset, Digits& digits,
                Ranges& ranges) {
  ranges.clear();
  for (const Range& range : map.box().ranges()) {
    ranges.push_back({range.begin, range.begin});
  }
  int64_t rest = offset - map.offset_elements();
  if (offset < 0 || rest < 0) return false;
  for (size_t i = digits.size(); i-- > 0;) {
    Digit& digit = digits[i];
    digit.last = rest / digit.stride;
    if (digit.last >= digit.extent) return false;
    rest -= digit.last * digit.stride;
    ranges[digit.dim].begin += digit.last * digit.weight;
  }
  return rest == 0;
}

// Appends the logical steps of one mode; false if it is not made of steps of
// single digits.
bool SplitMode(RunMode mode, Digits& digits, Steps& steps) {
  if (mode.extent < 2) return false;
  size_t at = 0;
  while (mode.extent > 1) {
    while (at + 1 < digits.size() && digits[at + 1].stride <= mode.dst_stride) {
      ++at;
    }
    if (at >= digits.size()) return false;
    Digit& digit = digits[at];
    if (mode.dst_stride < digit.stride || mode.dst_stride % digit.stride != 0) {
      return false;
    }
    const int64_t times = mode.dst_stride / digit.stride;
    const int64_t room = (digit.extent - 1 - digit.last) / times + 1;
    const int64_t extent = std::min(room, mode.extent);
    if (extent < 2 || mode.extent % extent != 0) return false;
    digit.last += times * (extent - 1);
    steps.push_back({digit.dim, digit.weight * times, extent, mode.src_stride});
    mode.extent /= extent;
    if (mode.extent == 1) break;
    const auto src_stride = base::CheckedMul(mode.src_stride, extent);
    const auto dst_stride = base::CheckedMul(mode.dst_stride, extent);
    if (!src_stride || !dst_stride) return false;
    mode.src_stride = *src_stride;
    mode.dst_stride = *dst_stride;
  }
  return true;
}

// (3): sorts the steps and gives each range its end.
bool FillRanges(Steps& steps, Ranges& ranges) {
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return a.dim != b.dim ? a.dim < b.dim : a.length < b.length;
  });
  for (Range& range : ranges) range.end = range.begin + 1;
  for (const Step& step : steps) {
    Range& range = ranges[step.dim];
    if (step.length != range.extent()) return false;
    range.end = range.begin + step.length * step.extent;
  }
  return true;
}

// (2): the source map on the coordinates of the run.
bool SourceAgrees(const IndexMap& src, int64_t src_offset, const Steps& steps,
                  const Ranges& ranges) {
  int64_t offset = src.offset_elements();
  const Step* step = steps.data();
  const Step* const end = steps.data() + steps.size();
  Digits digits;
  for (int dim = 0; dim < src.box().rank(); ++dim) {
    const Range& held = src.box().range(dim);
    if (ranges[dim].begin < held.begin || ranges[dim].end > held.end) {
      return false;
    }
    digits.clear();
    int64_t weight = 1;
    int64_t rest = ranges[dim].begin - held.begin;
    for (const Mode& mode : src.modes(dim)) {
      const int64_t value = rest % mode.extent;
      rest /= mode.extent;
      digits.push_back({mode.stride, mode.extent, weight, dim, value});
      weight *= mode.extent;
      offset += value * mode.stride;
    }
    for (; step != end && step->dim == dim; ++step) {
      size_t at = 0;
      while (at + 1 < digits.size() && digits[at + 1].weight <= step->length) {
        ++at;
      }
      if (at >= digits.size() || step->length % digits[at].weight != 0) {
        return false;
      }
      Digit& digit = digits[at];
      const int64_t times = step->length / digit.weight;
      digit.last += times * (step->extent - 1);
      if (digit.last >= digit.extent) return false;
      if (times * digit.stride != step->src_stride) return false;
    }
  }
  return offset == src_offset;
}

// The box of the run's coordinates, if (1)-(3) hold.
bool ProveRun(const IndexMap& src, const IndexMap& dst, Digits digits,
              const Run& run, Ranges& ranges) {
  if (!ReadOffset(dst, run.dst_offset, digits, ranges)) return false;
  Steps steps;
  for (size_t i = run.modes.size(); i-- > 0;) {
    if (!SplitMode(run.modes[i], digits, steps)) return false;
  }
  return FillRanges(steps, ranges) &&
         SourceAgrees(src, run.src_offset, steps, ranges);
}

bool ProveAll(const IndexMap& src, const IndexMap& dst, const Box& box,
              absl::Span<const Run> runs) {
  const std::optional<Digits> digits = SortedDigits(dst);
  if (!digits.has_value()) return false;
  Ranges ranges;
  if (runs.size() == 1) {
    return ProveRun(src, dst, *digits, runs[0], ranges) &&
           absl::MakeConstSpan(ranges) == box.ranges();
  }
  std::vector<Box> boxes;
  boxes.reserve(runs.size());
  int64_t elements = 0;
  for (const Run& run : runs) {
    if (!ProveRun(src, dst, *digits, run, ranges)) return false;
    absl::StatusOr<Box> part = Box::Make(ranges);
    if (!part.ok() || !tensor::Contains(box, *part)) return false;
    if (part->num_elements() > box.num_elements() - elements) return false;
    elements += part->num_elements();
    boxes.push_back(*std::move(part));
  }
  if (elements != box.num_elements()) return false;
  std::vector<const Box*> pointers;
  pointers.reserve(boxes.size());
  for (const Box& part : boxes) pointers.push_back(&part);
  return !FindOverlap(pointers).has_value();
}

}  // namespace

std::optional<std::string> FindRunFault(const IndexMap& src,
                                        const IndexMap& dst, const Box& box,
                                        absl::Span<const Run> runs) {
  if (ProveAll(src, dst, box, runs)) return std::nullopt;
  const absl::StatusOr<std::vector<Run>> expected =
      RunsOfBox(src, dst, box, static_cast<int64_t>(runs.size()));
  if (expected.ok() && absl::MakeConstSpan(*expected) == runs) {
    return std::nullopt;
  }
  if (expected.ok() && expected->size() == runs.size()) {
    for (size_t i = 0; i < runs.size(); ++i) {
      if (runs[i] == (*expected)[i]) continue;
      return absl::StrCat("run ", i, " is {", runs[i].ToString(),
                          "} but should be {", (*expected)[i].ToString(), "}");
    }
  }
  return absl::StrCat("its ", runs.size(),
                      " runs are not the elements of that box, each once");
}

}  // namespace weft::plan
