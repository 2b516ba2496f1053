#include "weft/layout/run.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/layout/dim_runs_internal.h"

namespace weft::layout {
namespace {

bool IsContiguous(const RunMode& mode) {
  return mode.src_stride == 1 && mode.dst_stride == 1;
}

// Outermost first: by destination stride, a (1,1) mode last. The other keys
// only make the order total.
bool OutsideOf(const RunMode& a, const RunMode& b) {
  const auto key = [](const RunMode& mode) {
    return std::make_tuple(!IsContiguous(mode), mode.dst_stride,
                           mode.src_stride, mode.extent);
  };
  return key(a) > key(b);
}

bool Continues(const RunMode& outer, const RunMode& inner) {
  return base::CheckedMul(inner.extent, inner.src_stride) == outer.src_stride &&
         base::CheckedMul(inner.extent, inner.dst_stride) == outer.dst_stride;
}

// Sorts the modes (none of extent 1) and merges neighbours.
void Normalize(Run& run) {
  auto& modes = run.modes;
  if (modes.size() < 2) return;
  std::sort(modes.begin(), modes.end(), OutsideOf);
  // From the innermost outwards, so that each merge sees its final inner mode.
  std::size_t kept = modes.size() - 1;
  for (std::size_t i = modes.size() - 1; i-- > 0;) {
    if (Continues(modes[i], modes[kept])) {
      modes[kept].extent *= modes[i].extent;
    } else {
      modes[--kept] = modes[i];
    }
  }
  modes.erase(modes.begin(), modes.begin() + static_cast<std::ptrdiff_t>(kept));
}

// The part of a dimension in which both boxes lie.
struct CommonRange {
  int64_t src_begin = 0;  // relative to the source map's box
  int64_t dst_begin = 0;
  int64_t extent = 0;  // <= 0 if they do not meet
};

CommonRange CommonRangeOf(const tensor::Range& src, const tensor::Range& dst) {
  const int64_t begin = std::max(src.begin, dst.begin);
  return {begin - src.begin, begin - dst.begin,
          std::min(src.end, dst.end) - begin};
}

int64_t StrideOf(const DimModes& modes) {
  return modes.empty() ? 0 : modes[0].stride;
}

void AppendLinear(const DimModes& src, const DimModes& dst,
                  const CommonRange& range, Run& run) {
  const RunMode mode{range.extent, StrideOf(src), StrideOf(dst)};
  run.src_offset += range.src_begin * mode.src_stride;
  run.dst_offset += range.dst_begin * mode.dst_stride;
  if (mode.extent > 1) run.modes.push_back(mode);
}

void Append(const internal::DimRun& part, Run& run) {
  run.src_offset += part.src_offset;
  run.dst_offset += part.dst_offset;
  run.modes.insert(run.modes.end(), part.modes.begin(), part.modes.end());
}

// `base` with every combination of one alternative from each dimension, the
// last dimension fastest.
std::vector<Run> Combine(
    const Run& base,
    const std::vector<std::vector<internal::DimRun>>& alternatives,
    int64_t num_runs) {
  std::vector<Run> runs;
  runs.reserve(static_cast<std::size_t>(num_runs));
  std::vector<std::size_t> choice(alternatives.size(), 0);
  while (static_cast<int64_t>(runs.size()) < num_runs) {
    Run run = base;
    for (std::size_t i = 0; i < alternatives.size(); ++i) {
      Append(alternatives[i][choice[i]], run);
    }
    Normalize(run);
    runs.push_back(std::move(run));
    for (std::size_t i = alternatives.size();
         i-- > 0 && ++choice[i] == alternatives[i].size();) {
      choice[i] = 0;
    }
  }
  return runs;
}

absl::Status TooManyRuns(const IndexMap& src, const IndexMap& dst,
                         int64_t max_runs) {
  return absl::ResourceExhaustedError(
      absl::StrCat("copying from ", src.ToString(), " to ", dst.ToString(),
                   " needs more than ", max_runs, " runs; raise the limit"));
}

}  // namespace

int64_t Run::num_elements() const {
  int64_t count = 1;
  for (const RunMode& mode : modes) count *= mode.extent;
  return count;
}

int64_t Run::contiguous_elements() const {
  return !modes.empty() && IsContiguous(modes.back()) ? modes.back().extent : 1;
}

int64_t Run::src_contiguous_elements() const {
  return !modes.empty() && modes.back().src_stride == 1 ? modes.back().extent
                                                        : 1;
}

int64_t Run::dst_contiguous_elements() const {
  return !modes.empty() && modes.back().dst_stride == 1 ? modes.back().extent
                                                        : 1;
}

std::string Run::ToString() const {
  std::string text = absl::StrCat("src ", src_offset, " dst ", dst_offset);
  if (!modes.empty()) absl::StrAppend(&text, " ");
  for (const RunMode& mode : modes) {
    absl::StrAppend(&text, "(", mode.extent, ":", mode.src_stride, ">",
                    mode.dst_stride, ")");
  }
  return text;
}

absl::StatusOr<std::vector<Run>> CommonRuns(const IndexMap& src,
                                            const IndexMap& dst,
                                            int64_t max_runs) {
  const int rank = src.box().rank();
  if (dst.box().rank() != rank) {
    return absl::InvalidArgumentError(
        absl::StrCat("source box ", src.box().ToString(), " has rank ", rank,
                     " but destination box ", dst.box().ToString(),
                     " has rank ", dst.box().rank()));
  }
  for (int dim = 0; dim < rank; ++dim) {
    if (CommonRangeOf(src.box().range(dim), dst.box().range(dim)).extent <= 0) {
      return std::vector<Run>{};
    }
  }
  Run base;
  base.src_offset = src.offset_elements();
  base.dst_offset = dst.offset_elements();
  std::vector<std::vector<internal::DimRun>> alternatives;
  int64_t num_runs = 1;
  for (int dim = 0; dim < rank; ++dim) {
    const DimModes& src_modes = src.modes(dim);
    const DimModes& dst_modes = dst.modes(dim);
    const CommonRange range =
        CommonRangeOf(src.box().range(dim), dst.box().range(dim));
    if (src_modes.size() <= 1 && dst_modes.size() <= 1) {
      AppendLinear(src_modes, dst_modes, range, base);
      continue;
    }
    std::optional<std::vector<internal::DimRun>> parts =
        internal::RefineDimension({src_modes, range.src_begin},
                                  {dst_modes, range.dst_begin}, range.extent,
                                  max_runs / num_runs);
    if (!parts) return TooManyRuns(src, dst, max_runs);
    if (parts->size() == 1) {
      Append(parts->front(), base);
    } else {
      num_runs *= static_cast<int64_t>(parts->size());
      alternatives.push_back(*std::move(parts));
    }
  }
  if (num_runs > max_runs) return TooManyRuns(src, dst, max_runs);
  return Combine(base, alternatives, num_runs);
}

}  // namespace weft::layout
