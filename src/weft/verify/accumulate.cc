#include "weft/verify/accumulate.h"

#include <algorithm>
#include <array>
#include <vector>

#include "weft/layout/mode.h"
#include "weft/tensor/dtype.h"
#include "weft/verify/tile_walk.h"

namespace weft::verify {
namespace {

using tensor::kTileCols;
using tensor::kTileRows;

// Coordinates [begin, begin + count) of one dimension, which lie `stride`
// elements apart from `offset` on: what a range is between the digits' carries.
struct Segment {
  int64_t begin = 0;  // logical coordinate
  int64_t count = 0;
  int64_t offset = 0;
  int64_t stride = 0;
};

// Logical range [range.begin, range.end) of a dimension that starts at
// `origin`, cut where its modes carry.
std::vector<Segment> SegmentsOf(const layout::DimModes& modes, int64_t origin,
                                tensor::Range range) {
  const int64_t digit = modes.empty() ? 1 : modes[0].extent;
  const int64_t stride = modes.empty() ? 0 : modes[0].stride;
  std::vector<Segment> segments;
  for (int64_t i = range.begin - origin; i < range.end - origin;) {
    const int64_t count = std::min(digit - i % digit, range.end - origin - i);
    segments.push_back({i + origin, count, layout::OffsetOf(modes, i), stride});
    i += count;
  }
  return segments;
}

// Rows and columns of a plane, from element offset `offset` on: the last two
// dimensions. A tensor of rank 1 is one row.
struct Plane {
  int64_t offset = 0;
  std::vector<Segment> rows;  // within one row of tiles
  std::vector<Segment> cols;
  // Of the tile in which `first_col` lies; the tiles to its right follow.
  int64_t first_value = 0;
  int64_t first_col = 0;
};

const std::byte* ElementAt(const MapDigest& digest, const Plane& plane,
                           const Segment& row, const Segment& col) {
  return digest.stored_base +
         (plane.offset + row.offset + col.offset) * digest.item_bytes;
}

// Digests `rows` x `cols` that begin at `data`, columns beside each other.
void DigestSegments(const MapDigest& digest, const Plane& plane,
                    const std::byte* data, int64_t row_stride_bytes,
                    const Segment& rows, const Segment& cols) {
  const int64_t first_tile = cols.begin / kTileCols;
  const int64_t end_tile = (cols.begin + cols.count - 1) / kTileCols + 1;
  digest.kernels->DigestBand(
      *digest.constants, data, row_stride_bytes, static_cast<int>(rows.count),
      cols.count, digest.item_bytes, static_cast<int>(rows.begin % kTileRows),
      static_cast<int>(cols.begin % kTileCols),
      digest.values.subspan(static_cast<size_t>(plane.first_value + first_tile -
                                                plane.first_col / kTileCols),
                            static_cast<size_t>(end_tile - first_tile)));
}

tensor::DType OfItemBytes(int item_bytes) {
  switch (item_bytes) {
    case 1:
      return tensor::DType::kU8;
    case 2:
      return tensor::DType::kU16;
    case 4:
      return tensor::DType::kU32;
    default:
      return tensor::DType::kU64;
  }
}

// The columns do not lie beside each other: a tile at a time is gathered into
// `scratch` (transposed, if so it is stored) and digested there.
void DigestStrided(const MapDigest& digest, const Plane& plane,
                   const Segment& rows, const Segment& cols) {
  alignas(64) std::array<std::byte, kTileRows * kTileCols * 8> scratch;
  const int64_t item = digest.item_bytes;
  const tensor::DType dtype = OfItemBytes(digest.item_bytes);
  for (int64_t done = 0; done < cols.count;) {
    Segment piece = cols;
    piece.begin += done;
    piece.offset += done * cols.stride;
    piece.count =
        std::min(kTileCols - piece.begin % kTileCols, cols.count - done);
    convert::StridedCopy copy;
    copy.src = ElementAt(digest, plane, rows, piece);
    copy.dst = scratch.data();
    copy.modes = {{rows.count, rows.stride * item, piece.count * item},
                  {piece.count, piece.stride * item, item}};
    copy.conversion = {dtype, dtype};
    digest.kernels->Copy(copy);
    DigestSegments(digest, plane, scratch.data(), piece.count * item, rows,
                   piece);
    done += piece.count;
  }
}

void DigestPlane(const MapDigest& digest, const Plane& plane) {
  for (const Segment& rows : plane.rows) {
    for (const Segment& cols : plane.cols) {
      if (cols.stride == 1 || cols.count == 1) {
        DigestSegments(digest, plane, ElementAt(digest, plane, rows, cols),
                       rows.stride * digest.item_bytes, rows, cols);
      } else {
        DigestStrided(digest, plane, rows, cols);
      }
    }
  }
}

// Segments of the tiles [tile_begin, tile_end) along dimension `dim`.
std::vector<Segment> TileSegments(const layout::IndexMap& map, int dim,
                                  int64_t tile_extent, int64_t tile_begin,
                                  int64_t tile_end) {
  const tensor::Range range = map.box().range(dim);
  return SegmentsOf(map.modes(dim), range.begin,
                    {std::max(range.begin, tile_begin * tile_extent),
                     std::min(range.end, tile_end * tile_extent)});
}

// `num_tiles` tiles beside each other, from `tile` on.
void DigestTileRow(const MapDigest& digest, const TileCoordinates& tile,
                   int64_t num_tiles) {
  const layout::IndexMap& map = *digest.map;
  const int rank = map.box().rank();
  Plane plane;
  plane.offset = map.offset_elements();
  plane.first_value = digest.grid.IndexOf(tile);
  plane.rows = {{.begin = 0, .count = 1}};
  plane.cols = {{.begin = 0, .count = 1}};
  if (rank >= 1) {
    const int64_t first = tile[static_cast<size_t>(rank - 1)];
    plane.cols =
        TileSegments(map, rank - 1, kTileCols, first, first + num_tiles);
    plane.first_col = first * kTileCols;
  }
  if (rank >= 2) {
    const int64_t row = tile[static_cast<size_t>(rank - 2)];
    plane.rows = TileSegments(map, rank - 2, kTileRows, row, row + 1);
  }
  for (int dim = 0; dim + 2 < rank; ++dim) {
    plane.offset +=
        layout::OffsetOf(map.modes(dim), tile[static_cast<size_t>(dim)] -
                                             map.box().range(dim).begin);
  }
  DigestPlane(digest, plane);
}

}  // namespace

void AccumulateTileRange(const MapDigest& digest, int64_t begin, int64_t end) {
  const tensor::TileGrid own = tensor::TileGrid::Of(digest.map->box());
  const int64_t row_tiles = own.tiles.empty() ? 1 : own.tiles.back().extent();
  for (int64_t index = begin; index < end;) {
    // To the end of the range or of this row of tiles.
    const int64_t count = std::min(end - index, row_tiles - index % row_tiles);
    DigestTileRow(digest, TileAt(own, index), count);
    index += count;
  }
}

}  // namespace weft::verify
