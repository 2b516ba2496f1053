// Step 3 of tiling_internal.h: two bits for each element of a cluster.
#ifndef WEFT_LAYOUT_TILING_BITMAP_INTERNAL_H_
#define WEFT_LAYOUT_TILING_BITMAP_INTERNAL_H_

#include <cstdint>
#include <vector>

#include "weft/layout/tiling_internal.h"

namespace weft::layout::internal {

// An image with its modes fastest first, merged, of distinct strides >= 1.
struct ClusterImage {
  int image = 0;  // index into the caller's images
  int64_t offset = 0;
  absl::InlinedVector<Mode, 4> modes;
};

// Images whose hulls meet, by ascending offset, and the union of the hulls.
struct Cluster {
  tensor::Range range;
  std::vector<ClusterImage> images;
};

// Faults of a cluster whose offsets (and those of the faults) count from the
// cluster's begin. Here an overlap is reported once an image, against the
// first other image that writes the element.
std::vector<TilingFault> CheckByBitmap(const Cluster& cluster,
                                       bool allow_holes);

}  // namespace weft::layout::internal

#endif  // WEFT_LAYOUT_TILING_BITMAP_INTERNAL_H_
