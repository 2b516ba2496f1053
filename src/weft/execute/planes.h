// Planes: a box of a logical tensor as matrices with constant steps in memory,
// which is what kernels of a GPU take. The last two dimensions of the box are
// cut where a digit of an index map carries; each index of the others is a
// plane of its own.
#ifndef WEFT_EXECUTE_PLANES_H_
#define WEFT_EXECUTE_PLANES_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "weft/convert/cuda/program.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/box.h"
#include "weft/tensor/tile_grid.h"

namespace weft::execute {

struct Plane {
  int64_t rows = 1;
  int64_t cols = 1;
  // Logical coordinates of the first element in the last two dimensions (0 in
  // a dimension that the tensor does not have), and the tile that it lies in.
  int64_t row_begin = 0;
  int64_t col_begin = 0;
  absl::InlinedVector<int64_t, 4> tile = {};
  // In elements, of the first map and of the second.
  std::array<int64_t, 2> offset = {};
  std::array<int64_t, 2> row_stride = {};
  std::array<int64_t, 2> col_stride = {};
};

// Calls `visit` with planes that together are `box`, which each of `maps` (one
// or two) contains; each element is in one of them.
void ForEachPlane(const tensor::Box& box,
                  absl::Span<const layout::IndexMap* const> maps,
                  absl::FunctionRef<void(const Plane&)> visit);

// Where the digests of `plane` go in a table over `grid` that begins at value
// `first_value` of a program.
convert::cuda::DigestPlace PlaceOf(const Plane& plane,
                                   const tensor::TileGrid& grid,
                                   int64_t first_value);

// Appends digests of the elements of `box`, which lie at `base` + their offset
// by `map`, into the table over `grid` at `first_value`.
void AppendDigests(const tensor::Box& box, const layout::IndexMap& map,
                   const std::byte* base, int item_bytes,
                   const tensor::TileGrid& grid, int64_t first_value,
                   std::vector<convert::cuda::Digest>& digests);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_PLANES_H_
