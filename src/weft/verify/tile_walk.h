// Walking the tiles of a grid in its order. Internal to verify.
#ifndef WEFT_VERIFY_TILE_WALK_H_
#define WEFT_VERIFY_TILE_WALK_H_

#include <cstddef>
#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "weft/tensor/tile_grid.h"

namespace weft::verify {

using TileCoordinates = absl::InlinedVector<int64_t, 4>;

// Coordinates of the tile at row-major position `index` of `grid`; requires
// 0 <= index < grid.num_tiles.
inline TileCoordinates TileAt(const tensor::TileGrid& grid, int64_t index) {
  TileCoordinates tile(grid.tiles.size(), 0);
  for (size_t dim = tile.size(); dim-- > 0;) {
    const int64_t extent = grid.tiles[dim].extent();
    tile[dim] = grid.tiles[dim].begin + index % extent;
    index /= extent;
  }
  return tile;
}

// Calls visit(first tile, its position, count) with the tiles of `grid` that
// lie beside each other along the last dimension: what is done for each of
// millions of tiles needs no division then.
template <typename Visit>
void ForEachTileRow(const tensor::TileGrid& grid, Visit visit) {
  const int64_t count = grid.tiles.empty() ? 1 : grid.tiles.back().extent();
  for (int64_t index = 0; index < grid.num_tiles; index += count) {
    visit(TileAt(grid, index), index, count);
  }
}

}  // namespace weft::verify

#endif  // WEFT_VERIFY_TILE_WALK_H_
