// Run: one strided N-d copy between two stored tensors, and CommonRuns, the
// common refinement of two index maps.
//
//   run copies, for every digit vector i with 0 <= i_k < extent_k:
//     dst[dst_offset + sum i_k*dst_stride_k] =
//         src[src_offset + sum i_k*src_stride_k]          (elements)
//
// Elements and not bytes, because the two ends may differ in dtype.
#ifndef WEFT_LAYOUT_RUN_H_
#define WEFT_LAYOUT_RUN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "weft/layout/index_map.h"

namespace weft::layout {

struct RunMode {
  int64_t extent = 1;
  int64_t src_stride = 0;
  int64_t dst_stride = 0;
  friend bool operator==(const RunMode&, const RunMode&) = default;
};

struct Run {
  int64_t src_offset = 0;
  int64_t dst_offset = 0;
  // Outermost first; the last is the innermost. If any mode is contiguous on
  // both sides (strides 1 and 1) it is the last. Empty = one element. No mode
  // has extent 1.
  absl::InlinedVector<RunMode, 4> modes;

  int64_t num_elements() const;
  // Elements that lie next to each other on both sides: the last mode's
  // extent if its strides are 1 and 1, else 1.
  int64_t contiguous_elements() const;
  // Same for the source side alone / the destination side alone.
  int64_t src_contiguous_elements() const;
  int64_t dst_contiguous_elements() const;
  // "src 0 dst 16 (4:8>32)(8:1>1)".
  std::string ToString() const;
  friend bool operator==(const Run&, const Run&) = default;
};

// Strided runs for all x in src.box() ∩ dst.box(), each x exactly once:
//   the multiset { (src(x), dst(x)) : x in both boxes }
//     == the multiset of (src element, dst element) pairs of the runs.
// Regular structure stays compressed: a column cut is one run with two modes,
// query groups are one run with three; never a run per row. Modes are merged
// where both strides allow. Deterministic.
// The order of the runs is fixed but means nothing.
// kInvalidArgument on unequal ranks; kResourceExhausted when more than
// `max_runs` would be needed.
absl::StatusOr<std::vector<Run>> CommonRuns(const IndexMap& src,
                                            const IndexMap& dst,
                                            int64_t max_runs);

}  // namespace weft::layout

#endif  // WEFT_LAYOUT_RUN_H_
