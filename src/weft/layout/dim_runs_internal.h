// The common refinement of two digit systems along one dimension, which is
// what CommonRuns is made of.
//
// Each side reads the coordinate x as `index + step*x` in its own mixed radix.
// The interval is never walked coordinate by coordinate. Instead:
//
//   - digits that do not change over the interval become offsets;
//   - if both sides are linear now, the interval is one mode;
//   - if the innermost extents P and Q nest (one divides the other), the
//     smaller is a period: each segment of one period becomes a mode, and what
//     is left is the same problem over the periods (step = period);
//   - if they do not nest, lcm(P,Q) is the period where it repeats, and the
//     interval is cut at the blocks of the larger one where it does not.
//
// So the work is about the number of digits plus the number of results.
#ifndef WEFT_LAYOUT_DIM_RUNS_INTERNAL_H_
#define WEFT_LAYOUT_DIM_RUNS_INTERNAL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "weft/layout/mode.h"
#include "weft/layout/run.h"

namespace weft::layout::internal {

// One dimension's share of a run. Modes in no promised order.
struct DimRun {
  int64_t src_offset = 0;
  int64_t dst_offset = 0;
  absl::InlinedVector<RunMode, 3> modes;
};

// Where one side's interval begins, in coordinates of its modes.
struct DimSide {
  const DimModes& modes;
  int64_t begin = 0;
};

// Pairs of offsets of [src.begin, src.begin+extent) with those of
// [dst.begin, dst.begin+extent), in order; each pair in exactly one DimRun.
// nullopt when more than `max_runs` would be needed. Requires extent >= 1.
std::optional<std::vector<DimRun>> RefineDimension(DimSide src, DimSide dst,
                                                   int64_t extent,
                                                   int64_t max_runs);

}  // namespace weft::layout::internal

#endif  // WEFT_LAYOUT_DIM_RUNS_INTERNAL_H_
