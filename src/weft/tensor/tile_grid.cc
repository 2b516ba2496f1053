#include "weft/tensor/tile_grid.h"

#include <algorithm>

#include "weft/base/checked.h"

namespace weft::tensor {

Shape TileShape(int rank) {
  Shape shape(static_cast<size_t>(rank), 1);
  if (rank >= 1) shape[rank - 1] = kTileCols;
  if (rank >= 2) shape[rank - 2] = kTileRows;
  return shape;
}

TileGrid TileGrid::Of(const Box& box) {
  const Shape tile_shape = TileShape(box.rank());
  TileGrid grid;
  grid.num_tiles = 1;
  for (int dim = 0; dim < box.rank(); ++dim) {
    const Range& range = box.range(dim);
    Range tiles{range.begin / tile_shape[dim],
                base::CeilDiv(range.end, tile_shape[dim])};
    if (range.extent() == 0) tiles.end = tiles.begin;
    grid.num_tiles *= tiles.extent();
    grid.tiles.push_back(tiles);
  }
  return grid;
}

int64_t TileGrid::IndexOf(absl::Span<const int64_t> tile) const {
  int64_t index = 0;
  for (size_t dim = 0; dim < tiles.size(); ++dim) {
    index = index * tiles[dim].extent() + (tile[dim] - tiles[dim].begin);
  }
  return index;
}

Box TileBox(absl::Span<const int64_t> tile, const Box& clip) {
  const Shape tile_shape = TileShape(clip.rank());
  Box box = clip;
  for (int dim = 0; dim < clip.rank(); ++dim) {
    const int64_t begin = tile[dim] * tile_shape[dim];
    // Ends by subtraction, because begin + tile extent may pass 2^63.
    const int64_t extent =
        std::min(tile_shape[dim], clip.range(dim).end - begin);
    box = box.WithRange(
        dim, {std::max(begin, clip.range(dim).begin), begin + extent});
  }
  return box;
}

Box TileCover(const Box& box, const Box& clip) {
  if (box.empty()) return box;
  const Shape tile_shape = TileShape(box.rank());
  Box cover = clip;
  for (int dim = 0; dim < box.rank(); ++dim) {
    const int64_t extent = tile_shape[dim];
    const Range& range = box.range(dim);
    // What the last tile lacks, added only as far as the clip reaches, because
    // the tile's end may pass 2^63.
    const int64_t missing = (extent - range.end % extent) % extent;
    const int64_t room = clip.range(dim).end - range.end;
    cover = cover.WithRange(
        dim, {std::max(range.begin / extent * extent, clip.range(dim).begin),
              range.end + std::min(missing, room)});
  }
  return cover;
}

}  // namespace weft::tensor
