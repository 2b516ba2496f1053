// Exact tiling check over strided sets of elements: who writes an element
// twice, and which elements nobody writes.
//
// An image is { offset + sum_k i_k*stride_k : 0 <= i_k < extent_k }. The check
// never walks elements where it can reason:
//
//   1. Images whose hulls [first,last] do not meet cannot overlap, so the
//      stored tensor falls apart into clusters of meeting hulls.
//   2. If the strides of a cluster form a chain of divisors
//      1 | r_1 | ... | r_m, write elements in that mixed radix: each image is
//      a few boxes of digits (an extent that carries into the next digit is
//      split into head, whole blocks and tail). Boxes are intersected and
//      subtracted exactly; disjoint boxes whose sizes add up to the cluster
//      leave no hole.
//   3. Otherwise bitmaps of the cluster, two bits an element. (Here a large
//      image with more writes than the cluster has elements is reported
//      without a walk, and then the cluster's holes are not looked for.)
#ifndef WEFT_LAYOUT_TILING_INTERNAL_H_
#define WEFT_LAYOUT_TILING_INTERNAL_H_

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "weft/layout/mode.h"
#include "weft/tensor/box.h"

namespace weft::layout::internal {

struct Image {
  int64_t offset = 0;
  // Any order; strides >= 0. Every extent >= 1: empty images are left out.
  absl::InlinedVector<Mode, 4> modes;
};

// Largest cluster that step 3 takes: 2 GiB of bits.
inline constexpr int64_t kMaxBitmapElements = int64_t{1} << 33;

struct TilingFault {
  enum class Kind {
    kOverlap,   // images `first` < `second` both write `elements`
    kRepeat,    // image `first` writes `elements` more than once
    kHole,      // nobody writes `elements`
    kUnproven,  // step 3 would be needed for `elements`, too many of them
  };
  Kind kind = Kind::kHole;
  int first = -1;  // indices into the images
  int second = -1;
  tensor::Range elements;  // the first contiguous range at fault
  // kHole: elements missing in the whole cluster, `elements` among them.
  int64_t num_missing = 0;
};

// All faults of `images` over [0, num_elements), which contains all of them.
// Overlaps once a pair of images, holes once a cluster (none with
// `allow_holes`); at most kMaxOverlaps overlaps a cluster.
inline constexpr int kMaxOverlaps = 1000;
std::vector<TilingFault> FindTilingFaults(const std::vector<Image>& images,
                                          int64_t num_elements,
                                          bool allow_holes);

}  // namespace weft::layout::internal

#endif  // WEFT_LAYOUT_TILING_INTERNAL_H_
