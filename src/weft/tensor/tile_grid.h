// The lattice of digest tiles over a logical tensor. Every party cuts the same
// tiles, whatever its sharding: tiles are aligned to the logical origin, have
// kTileRows x kTileCols elements over the last two dimensions and extent 1 over
// the leading ones; a rank-1 tensor is one row of tiles, a scalar one tile.
// What is computed over a tile: convert/digest.h.
#ifndef WEFT_TENSOR_TILE_GRID_H_
#define WEFT_TENSOR_TILE_GRID_H_

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "weft/tensor/box.h"

namespace weft::tensor {

inline constexpr int64_t kTileRows = 64;
inline constexpr int64_t kTileCols = 64;

// Tile extents for a tensor of this rank: {1.., kTileRows, kTileCols};
// {kTileCols} for rank 1; {} for rank 0.
Shape TileShape(int rank);

// The tiles that meet `box`, in tile coordinates (element / tile extent).
struct TileGrid {
  absl::InlinedVector<Range, 4> tiles;
  int64_t num_tiles = 0;  // 0 for an empty box; 1 for rank 0

  static TileGrid Of(const Box& box);
  // Row-major position of tile coordinates within this grid; requires that
  // the tile lies in it.
  int64_t IndexOf(absl::Span<const int64_t> tile) const;
};

// The elements of the tile that lie in `clip`; requires that there are some.
Box TileBox(absl::Span<const int64_t> tile, const Box& clip);

// Smallest box that contains `box`, is made of whole tiles, and is clipped to
// `clip` (which contains `box`): all elements that share a tile with an element
// of `box`. Empty boxes stay as they are.
Box TileCover(const Box& box, const Box& clip);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_TILE_GRID_H_
