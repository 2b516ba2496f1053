#include "weft/execute/planes.h"

#include <algorithm>

#include "weft/layout/mode.h"

namespace weft::execute {
namespace {

using layout::IndexMap;

// Coordinates of one dimension between two carries of any map.
struct Segment {
  int64_t begin = 0;  // logical
  int64_t count = 1;
  std::array<int64_t, 2> offset = {};
  std::array<int64_t, 2> stride = {};
};

std::vector<Segment> SegmentsOf(absl::Span<const IndexMap* const> maps, int dim,
                                tensor::Range range) {
  std::vector<Segment> segments;
  for (int64_t at = range.begin; at < range.end;) {
    Segment segment;
    segment.begin = at;
    segment.count = range.end - at;
    for (size_t m = 0; m < maps.size(); ++m) {
      const layout::DimModes& modes = maps[m]->modes(dim);
      const int64_t index = at - maps[m]->box().range(dim).begin;
      segment.offset[m] = layout::OffsetOf(modes, index);
      if (modes.empty()) continue;
      segment.stride[m] = modes[0].stride;
      segment.count =
          std::min(segment.count, modes[0].extent - index % modes[0].extent);
    }
    at += segment.count;
    segments.push_back(segment);
  }
  return segments;
}

}  // namespace

void ForEachPlane(const tensor::Box& box,
                  absl::Span<const IndexMap* const> maps,
                  absl::FunctionRef<void(const Plane&)> visit) {
  if (box.empty()) return;
  const int rank = box.rank();
  const int outer_dims = std::max(0, rank - 2);
  std::vector<Segment> rows = {Segment{}};
  std::vector<Segment> cols = {Segment{}};
  if (rank >= 1) cols = SegmentsOf(maps, rank - 1, box.range(rank - 1));
  if (rank >= 2) rows = SegmentsOf(maps, rank - 2, box.range(rank - 2));
  absl::InlinedVector<int64_t, 4> at;
  for (int d = 0; d < outer_dims; ++d) at.push_back(box.range(d).begin);
  while (true) {
    std::array<int64_t, 2> offset = {};
    for (size_t m = 0; m < maps.size(); ++m) {
      offset[m] = maps[m]->offset_elements();
      for (int d = 0; d < outer_dims; ++d) {
        offset[m] += layout::OffsetOf(maps[m]->modes(d),
                                      at[d] - maps[m]->box().range(d).begin);
      }
    }
    for (const Segment& row : rows) {
      for (const Segment& col : cols) {
        Plane plane;
        plane.rows = row.count;
        plane.cols = col.count;
        plane.row_begin = row.begin;
        plane.col_begin = col.begin;
        plane.tile.assign(at.begin(), at.end());
        if (rank >= 2) plane.tile.push_back(row.begin / tensor::kTileRows);
        if (rank >= 1) plane.tile.push_back(col.begin / tensor::kTileCols);
        for (size_t m = 0; m < maps.size(); ++m) {
          plane.offset[m] = offset[m] + row.offset[m] + col.offset[m];
          plane.row_stride[m] = row.stride[m];
          plane.col_stride[m] = col.stride[m];
        }
        visit(plane);
      }
    }
    int d = outer_dims - 1;
    while (d >= 0 && ++at[d] == box.range(d).end) {
      at[d] = box.range(d).begin;
      --d;
    }
    if (d < 0) return;
  }
}

convert::cuda::DigestPlace PlaceOf(const Plane& plane,
                                   const tensor::TileGrid& grid,
                                   int64_t first_value) {
  return {
      .row_begin = plane.row_begin,
      .col_begin = plane.col_begin,
      .first_value = first_value + grid.IndexOf(plane.tile),
      .values_per_row = grid.tiles.empty() ? 1 : grid.tiles.back().extent()};
}

void AppendDigests(const tensor::Box& box, const IndexMap& map,
                   const std::byte* base, int item_bytes,
                   const tensor::TileGrid& grid, int64_t first_value,
                   std::vector<convert::cuda::Digest>& digests) {
  const IndexMap* const maps[] = {&map};
  ForEachPlane(box, maps, [&](const Plane& plane) {
    digests.push_back(
        {.data = base + plane.offset[0] * item_bytes,
         .item_bytes = item_bytes,
         .rows = plane.rows,
         .cols = plane.cols,
         .row_stride_bytes = plane.row_stride[0] * item_bytes,
         // A single column has no step of its own.
         .col_stride_bytes =
             plane.cols == 1 ? item_bytes : plane.col_stride[0] * item_bytes,
         .place = PlaceOf(plane, grid, first_value)});
  });
}

}  // namespace weft::execute
