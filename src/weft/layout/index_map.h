// IndexMap: from logical coordinates to element offsets in one stored tensor.
//
//   map = (box, modes, offset):   for x in box,
//   map(x) = offset + sum_d OffsetOf(modes[d], x_d - box.begin_d)
//
// Column and row shards, FSDP chunks, query groups, a half of gate_up, an
// expert in a stack and a transposed expert are all index maps. Strides are
// elements of the stored tensor, run-time 64-bit.
#ifndef WEFT_LAYOUT_INDEX_MAP_H_
#define WEFT_LAYOUT_INDEX_MAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/layout/mode.h"
#include "weft/tensor/box.h"

namespace weft::layout {

class IndexMap {
 public:
  IndexMap() = default;  // rank 0, offset 0

  // Checks: one DimModes a dimension, ExtentOf(modes[d]) == box.extent(d) (an
  // empty dimension may have any modes; they are dropped), extents >= 1,
  // strides >= 0, offset >= 0, and the largest offset fits int64. Modes are
  // coalesced. kInvalidArgument otherwise.
  static absl::StatusOr<IndexMap> Make(tensor::Box box,
                                       std::vector<DimModes> modes,
                                       int64_t offset_elements);

  // C-contiguous storage of `stored_shape` in which logical `box` begins at
  // stored coordinate `origin`, dimension d of the box along dimension d of
  // the storage. kInvalidArgument if it does not fit.
  static absl::StatusOr<IndexMap> RowMajor(
      const tensor::Box& box, absl::Span<const int64_t> stored_shape,
      absl::Span<const int64_t> origin);

  const tensor::Box& box() const { return box_; }
  const DimModes& modes(int dim) const { return modes_[dim]; }
  absl::Span<const DimModes> modes() const { return modes_; }
  int64_t offset_elements() const { return offset_elements_; }

  // map(x); requires x in box().
  int64_t OffsetOf(absl::Span<const int64_t> x) const;
  // One past the largest offset that any x in box() has; 0 for an empty box.
  int64_t end_offset_elements() const;

  // "[0,4)x[0,8) : ((2,2):(8,32)) (8:1) + 16".
  std::string ToString() const;

  friend bool operator==(const IndexMap&, const IndexMap&) = default;

 private:
  tensor::Box box_;
  // Inline: a plan walks thousands of maps, and each would be a cache miss
  // more.
  absl::InlinedVector<DimModes, 2> modes_;
  int64_t offset_elements_ = 0;
};

// The restriction of `map` to `map.box() ∩ box`. A cut through a nested mode
// has no single index map, so a list comes back: its boxes are disjoint,
// their union is the intersection, and for each r in it and x in r.box():
// r(x) == map(x). Empty when the intersection is.
std::vector<IndexMap> Restrict(const IndexMap& map, const tensor::Box& box);

// result(x[perm[0]], x[perm[1]], ...) == map(x): logical dimension d of the
// result is dimension perm[d] of the map. `perm` must be a permutation.
absl::StatusOr<IndexMap> Permute(const IndexMap& map,
                                 absl::Span<const int> perm);

// Joins maps that are pieces of one: the results cover the same coordinates
// with the same offsets, with fewer maps where neighbours along one dimension
// continue or repeat with a constant step (the query groups of linear_qkv
// become one nested map). Deterministic. Input boxes must be disjoint and of
// equal rank.
//   union of boxes is kept, and for every x: result(x) == input(x).
std::vector<IndexMap> JoinMaps(std::vector<IndexMap> maps);

}  // namespace weft::layout

#endif  // WEFT_LAYOUT_INDEX_MAP_H_
