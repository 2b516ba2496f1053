#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "weft/base/status.h"
#include "weft/execute/block_internal.h"

namespace weft::execute {
namespace {

using tensor::kTileCols;
using tensor::kTileRows;

int64_t SmallestStride(const layout::DimModes& modes) {
  int64_t smallest = std::numeric_limits<int64_t>::max();
  for (const layout::Mode& mode : modes) {
    if (mode.extent > 1) smallest = std::min(smallest, mode.stride);
  }
  return smallest;
}

// Tile extent along dimension `dim` of a box of this rank.
int64_t TileExtent(int rank, int dim) { return tensor::TileShape(rank)[dim]; }

// Block extents: see CutBox.
tensor::Shape BlockShape(const tensor::Box& box, const layout::IndexMap& map,
                         int64_t max_elements) {
  std::vector<int> order(box.rank());
  std::iota(order.rbegin(), order.rend(), 0);  // the last dimension first
  std::stable_sort(order.begin(), order.end(), [&map](int a, int b) {
    return SmallestStride(map.modes(a)) < SmallestStride(map.modes(b));
  });
  tensor::Shape shape(box.rank(), 1);
  int64_t left = std::max<int64_t>(1, max_elements);
  for (const int dim : order) {
    const int64_t extent = box.extent(dim);
    if (extent <= left) {
      shape[dim] = extent;
      left /= extent;
      continue;
    }
    const int64_t tile = TileExtent(box.rank(), dim);
    shape[dim] = left >= tile ? left / tile * tile : left;
    break;
  }
  return shape;
}

// First cut after `begin` along a dimension: multiples of `step` when whole
// tiles, so that the cuts lie on the logical lattice.
int64_t NextCut(int64_t begin, int64_t end, int64_t step, int64_t tile) {
  const int64_t next =
      tile > 1 && step % tile == 0 ? begin / step * step + step : begin + step;
  return std::min(next, end);
}

struct Digit {
  int dim;
  int digit;
  int64_t extent;
  int64_t stride;
  int64_t image_stride;
};

std::vector<Digit> SortedDigits(const layout::IndexMap& map) {
  std::vector<Digit> digits;
  for (int d = 0; d < map.box().rank(); ++d) {
    const layout::DimModes& modes = map.modes(d);
    for (int k = static_cast<int>(modes.size()) - 1; k >= 0; --k) {
      if (modes[k].extent == 1) continue;
      digits.push_back({d, k, modes[k].extent, modes[k].stride, 0});
    }
  }
  return digits;
}

}  // namespace

std::vector<tensor::Box> CutBox(const tensor::Box& box,
                                const layout::IndexMap& map,
                                int64_t max_elements) {
  std::vector<tensor::Box> blocks;
  if (box.empty()) return blocks;
  const tensor::Shape shape = BlockShape(box, map, max_elements);
  std::vector<tensor::Box> pending = {box};
  for (int dim = 0; dim < box.rank(); ++dim) {
    blocks.clear();
    const tensor::Range range = box.range(dim);
    const int64_t tile = TileExtent(box.rank(), dim);
    for (const tensor::Box& part : pending) {
      for (int64_t begin = range.begin; begin < range.end;) {
        const int64_t end = NextCut(begin, range.end, shape[dim], tile);
        blocks.push_back(part.WithRange(dim, {begin, end}));
        begin = end;
      }
    }
    std::swap(blocks, pending);
  }
  return pending;
}

absl::StatusOr<Image> MakeImage(const layout::IndexMap& far_map,
                                int64_t item_bytes, bool keep_strides) {
  Image image;
  std::vector<layout::DimModes> modes(far_map.modes().begin(),
                                      far_map.modes().end());
  std::vector<Digit> digits = SortedDigits(far_map);
  // Any order in which equal strides keep a fixed place serves.
  std::stable_sort(
      digits.begin(), digits.end(),
      [](const Digit& a, const Digit& b) { return a.stride < b.stride; });
  int64_t elements = 1;
  int64_t span = 1;
  for (Digit& digit : digits) {
    if (digit.stride == 0) continue;
    digit.image_stride = keep_strides ? digit.stride : elements;
    elements *= digit.extent;
    span += (digit.extent - 1) * digit.stride;
    modes[digit.dim][digit.digit].stride = digit.image_stride;
  }
  image.bytes = (keep_strides ? span : elements) * item_bytes;
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit) {
    if (digit->stride == 0) continue;
    image.run.modes.push_back({digit->extent, digit->stride * item_bytes,
                               digit->image_stride * item_bytes});
  }
  image.run.far_offset_bytes = far_map.offset_elements() * item_bytes;
  WEFT_ASSIGN_OR_RETURN(
      image.map, layout::IndexMap::Make(far_map.box(), std::move(modes), 0));
  return image;
}

DigestTable::DigestTable(const tensor::Box& box)
    : grid_(tensor::TileGrid::Of(box)),
      values_(static_cast<size_t>(grid_.num_tiles)) {}

void DigestTable::Clear() {
  const std::lock_guard lock(mutex_);
  std::fill(values_.begin(), values_.end(), convert::DigestValue{});
}

void DigestTable::Add(absl::Span<const int64_t> tile,
                      absl::Span<const convert::DigestValue> values) {
  const int64_t first = grid_.IndexOf(tile);
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < values.size(); ++i) values_[first + i] += values[i];
}

namespace {

// Digests one band of one matrix of the block: rows [row, row+num_rows) of a
// tile band, all columns.
class BandDigester {
 public:
  BandDigester(const convert::Kernels& kernels,
               const convert::DigestConstants& constants, const std::byte* base,
               const layout::IndexMap& map, tensor::DType dtype,
               DigestTable& table)
      : kernels_(kernels),
        constants_(constants),
        base_(base),
        map_(map),
        dtype_(dtype),
        item_(static_cast<int>(tensor::ItemBytes(dtype))),
        rank_(map.box().rank()),
        table_(table) {
    // Whole rows can be digested in place when each of the last two
    // dimensions has one stride, and the columns' is 1.
    in_place_ = true;
    if (rank_ >= 1) {
      const layout::DimModes& cols = map.modes(rank_ - 1);
      in_place_ &= cols.size() <= 1 && (cols.empty() || cols[0].stride == 1);
    }
    if (rank_ >= 2) in_place_ &= map.modes(rank_ - 2).size() <= 1;
  }

  // `start` holds the logical coordinates of the band's first element.
  void Digest(absl::Span<const int64_t> start, int64_t num_rows) const {
    const int64_t col_begin = rank_ >= 1 ? start[rank_ - 1] : 0;
    const int64_t num_cols = rank_ >= 1 ? map_.box().extent(rank_ - 1) : 1;
    const int row =
        rank_ >= 2 ? static_cast<int>(start[rank_ - 2] % kTileRows) : 0;
    tensor::Shape tile(start.begin(), start.end());
    const tensor::Shape tile_shape = tensor::TileShape(rank_);
    for (int d = 0; d < rank_; ++d) tile[d] /= tile_shape[d];
    if (!in_place_) {
      DigestTiles(start, num_rows, row, tile);
      return;
    }
    const int64_t row_stride = rank_ >= 2 && !map_.modes(rank_ - 2).empty()
                                   ? map_.modes(rank_ - 2)[0].stride * item_
                                   : 0;
    const int64_t last_tile = (col_begin + num_cols - 1) / kTileCols;
    absl::InlinedVector<convert::DigestValue, 64> values(
        static_cast<size_t>(last_tile - col_begin / kTileCols + 1));
    kernels_.DigestBand(constants_, base_ + map_.OffsetOf(start) * item_,
                        row_stride, static_cast<int>(num_rows), num_cols, item_,
                        row, static_cast<int>(col_begin % kTileCols),
                        absl::MakeSpan(values));
    table_.Add(tile, values);
  }

 private:
  // Copies one tile after another into a small row-major buffer: transposed
  // and nested layouts.
  void DigestTiles(absl::Span<const int64_t> start, int64_t num_rows, int row,
                   tensor::Shape& tile) const {
    alignas(64) std::byte buffer[kTileRows * kTileCols * 8];
    const tensor::Range cols = map_.box().range(rank_ - 1);
    tensor::Box band = map_.box();
    for (int d = 0; d + 1 < rank_; ++d) {
      const int64_t extent = d == rank_ - 2 ? num_rows : 1;
      band = band.WithRange(d, {start[d], start[d] + extent});
    }
    for (int64_t begin = cols.begin; begin < cols.end;) {
      tile[rank_ - 1] = begin / kTileCols;
      const int64_t end =
          std::min(cols.end, (begin / kTileCols + 1) * kTileCols);
      const int64_t num_cols = end - begin;
      CopyTile(band.WithRange(rank_ - 1, {begin, end}), buffer);
      convert::DigestValue value;
      kernels_.DigestBand(constants_, buffer, num_cols * item_,
                          static_cast<int>(num_rows), num_cols, item_, row,
                          static_cast<int>(begin % kTileCols),
                          absl::MakeSpan(&value, 1));
      table_.Add(tile, absl::MakeConstSpan(&value, 1));
      begin = end;
    }
  }

  void CopyTile(const tensor::Box& box, std::byte* row_major) const {
    const int64_t num_cols = box.extent(rank_ - 1);
    for (const layout::IndexMap& part : layout::Restrict(map_, box)) {
      convert::StridedCopy copy;
      copy.conversion = {dtype_, dtype_};
      copy.src = base_ + part.offset_elements() * item_;
      int64_t dst_offset = 0;
      for (int d = std::max(0, rank_ - 2); d < rank_; ++d) {
        const int64_t pitch = d == rank_ - 1 ? 1 : num_cols;
        dst_offset += (part.box().range(d).begin - box.range(d).begin) * pitch;
        AppendDigits(part.modes(d), pitch, copy);
      }
      copy.dst = row_major + dst_offset * item_;
      kernels_.Copy(copy);
    }
  }

  void AppendDigits(const layout::DimModes& modes, int64_t pitch,
                    convert::StridedCopy& copy) const {
    int64_t dst_stride = pitch;
    for (const layout::Mode& mode : modes) dst_stride *= mode.extent;
    for (auto mode = modes.rbegin(); mode != modes.rend(); ++mode) {
      dst_stride /= mode->extent;
      copy.modes.push_back(
          {mode->extent, mode->stride * item_, dst_stride * item_});
    }
  }

  const convert::Kernels& kernels_;
  const convert::DigestConstants& constants_;
  const std::byte* base_;
  const layout::IndexMap& map_;
  tensor::DType dtype_;
  int item_;
  int rank_;
  bool in_place_;
  DigestTable& table_;
};

}  // namespace

void DigestBlock(const convert::Kernels& kernels,
                 const convert::DigestConstants& constants,
                 const std::byte* base, const layout::IndexMap& map,
                 tensor::DType dtype, DigestTable& table) {
  const tensor::Box& box = map.box();
  if (box.empty()) return;
  const int rank = box.rank();
  const BandDigester digester(kernels, constants, base, map, dtype, table);
  tensor::Shape start;
  for (const tensor::Range& range : box.ranges()) start.push_back(range.begin);
  while (true) {
    if (rank >= 2) {
      const tensor::Range rows = box.range(rank - 2);
      for (int64_t row = rows.begin; row < rows.end;) {
        const int64_t end =
            std::min(rows.end, (row / kTileRows + 1) * kTileRows);
        start[rank - 2] = row;
        digester.Digest(start, end - row);
        row = end;
      }
      start[rank - 2] = rows.begin;
    } else {
      digester.Digest(start, 1);
    }
    int d = rank - 3;
    while (d >= 0 && ++start[d] == box.range(d).end) {
      start[d] = box.range(d).begin;
      --d;
    }
    if (d < 0) return;
  }
}

}  // namespace weft::execute
