#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "weft/base/checked.h"
#include "weft/convert/cuda/lower_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::convert::cuda {
namespace {

using base::CeilDiv;
using Modes = absl::InlinedVector<CopyMode, 4>;

// Rows shorter than this are moved element by element.
constexpr int64_t kLeastRowBytes = 16;
// Copies of at most this many bytes and runs become pieces, packed with others.
constexpr int64_t kMostPieceBytes = kRowTileBytes / 2;
constexpr int64_t kMostPieceRuns = 64;
// Sides of a plane below which a transposition through shared memory does not
// pay.
constexpr int64_t kLeastSide = 8;
// Rows of a band of tiles: 1 KiB of 2-byte elements at the source.
constexpr int64_t kBandRows = 8 * kTransposeSide;
// The runtime refuses larger pitches.
constexpr int64_t kMaxPitch = (int64_t{1} << 31) - 1;

// A copy with the elements that lie side by side on both sides taken together,
// and its other modes from far to near at the destination.
struct Canonical {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  int64_t run = 1;  // elements
  Modes modes;
  int64_t from_bytes = 1;
  int64_t to_bytes = 1;

  int64_t num_runs() const {
    int64_t runs = 1;
    for (const CopyMode& mode : modes) runs *= mode.extent;
    return runs;
  }
};

void AbsorbRun(Canonical& copy) {
  for (size_t i = 0; i < copy.modes.size();) {
    const CopyMode& mode = copy.modes[i];
    if (mode.src_stride_bytes == copy.run * copy.from_bytes &&
        mode.dst_stride_bytes == copy.run * copy.to_bytes) {
      copy.run *= mode.extent;
      copy.modes.erase(copy.modes.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;
    } else {
      ++i;
    }
  }
}

void MergeModes(Modes& modes) {
  std::stable_sort(
      modes.begin(), modes.end(), [](const CopyMode& a, const CopyMode& b) {
        return std::abs(a.dst_stride_bytes) > std::abs(b.dst_stride_bytes);
      });
  for (size_t i = 0; i + 1 < modes.size();) {
    const CopyMode& inner = modes[i + 1];
    CopyMode& outer = modes[i];
    if (outer.src_stride_bytes == inner.extent * inner.src_stride_bytes &&
        outer.dst_stride_bytes == inner.extent * inner.dst_stride_bytes) {
      outer = {outer.extent * inner.extent, inner.src_stride_bytes,
               inner.dst_stride_bytes};
      modes.erase(modes.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    } else {
      ++i;
    }
  }
}

Canonical Canonicalise(const StridedCopy& copy) {
  Canonical result;
  result.src = copy.src;
  result.dst = copy.dst;
  result.from_bytes = tensor::ItemBytes(copy.conversion.from);
  result.to_bytes = tensor::ItemBytes(copy.conversion.to);
  for (const CopyMode& mode : copy.modes) {
    if (mode.extent != 1) result.modes.push_back(mode);
  }
  AbsorbRun(result);
  MergeModes(result.modes);
  return result;
}

// Calls visit(src offset, dst offset) for every combination of `modes`.
template <typename Visit>
void ForEach(const Modes& modes, const Visit& visit) {
  Modes digits(modes.size());
  for (CopyMode& digit : digits) digit.extent = 0;
  int64_t src = 0;
  int64_t dst = 0;
  while (true) {
    visit(src, dst);
    size_t m = modes.size();
    while (m > 0) {
      --m;
      src += modes[m].src_stride_bytes;
      dst += modes[m].dst_stride_bytes;
      if (++digits[m].extent < modes[m].extent) break;
      src -= modes[m].extent * modes[m].src_stride_bytes;
      dst -= modes[m].extent * modes[m].dst_stride_bytes;
      digits[m].extent = 0;
      if (m == 0) return;
    }
    if (modes.empty()) return;
  }
}

bool PitchFits(const CopyMode& mode, int64_t width) {
  return mode.src_stride_bytes >= width && mode.dst_stride_bytes >= width &&
         mode.src_stride_bytes <= kMaxPitch &&
         mode.dst_stride_bytes <= kMaxPitch;
}

// `mode` as the slices of a 3-D copy of rows `row` apart.
bool SlicesFit(const CopyMode& mode, const CopyMode& row) {
  return mode.src_stride_bytes % row.src_stride_bytes == 0 &&
         mode.dst_stride_bytes % row.dst_stride_bytes == 0 &&
         mode.src_stride_bytes / row.src_stride_bytes >= row.extent &&
         mode.dst_stride_bytes / row.dst_stride_bytes >= row.extent;
}

// The copy as calls of a copy engine: one a combination of `outside`.
struct EnginePlan {
  EngineCopy call;
  Modes outside;
};

bool PlanEngine(const Canonical& copy, EnginePlan& plan) {
  plan.call.src = copy.src;
  plan.call.dst = copy.dst;
  plan.call.width = copy.run * copy.from_bytes;
  plan.outside = copy.modes;
  if (copy.modes.empty()) return true;
  const CopyMode row = copy.modes.back();
  if (!PitchFits(row, plan.call.width)) return false;
  plan.outside.pop_back();
  plan.call.height = row.extent;
  plan.call.src_pitch = row.src_stride_bytes;
  plan.call.dst_pitch = row.dst_stride_bytes;
  if (!plan.outside.empty() && SlicesFit(plan.outside.back(), row)) {
    const CopyMode slice = plan.outside.back();
    plan.outside.pop_back();
    plan.call.depth = slice.extent;
    plan.call.src_slice_rows = slice.src_stride_bytes / row.src_stride_bytes;
    plan.call.dst_slice_rows = slice.dst_stride_bytes / row.dst_stride_bytes;
  }
  return true;
}

bool EngineIsCheaper(const EnginePlan& plan, const Costs& costs) {
  int64_t calls = 1;
  for (const CopyMode& mode : plan.outside) calls *= mode.extent;
  const EngineCopy& call = plan.call;
  if (call.height > 1 && call.width < costs.engine_least_row_bytes) {
    return false;
  }
  const auto bytes = static_cast<double>(call.bytes() * calls);
  const double submit =
      static_cast<double>(calls) *
      (call.height > 1 ? costs.engine_call_ns : costs.engine_batched_ns);
  const double rows = static_cast<double>(call.height * call.depth * calls) *
                      costs.engine_row_ns;
  const double start =
      call.height > 1 ? static_cast<double>(calls) * costs.engine_start_ns : 0;
  const double copying =
      start + std::max(rows, bytes / costs.engine_bytes_per_ns);
  return std::max(submit, copying) <= bytes / costs.kernel_bytes_per_ns;
}

bool LowerToEngine(const Canonical& copy, CopyWay way, const Costs& costs,
                   Lowered& lowered) {
  EnginePlan plan;
  if (way == CopyWay::kKernel || !PlanEngine(copy, plan)) return false;
  if (way == CopyWay::kByCost && !EngineIsCheaper(plan, costs)) return false;
  ForEach(plan.outside, [&](int64_t src, int64_t dst) {
    EngineCopy call = plan.call;
    call.src += src;
    call.dst += dst;
    lowered.engine.push_back(call);
    lowered.info.engine_bytes += call.bytes();
  });
  return true;
}

// Whether rows and pieces of columns can be moved 16 bytes at a time.
bool IsWide(const MoveOp& op) {
  const bool rows = op.kind == MoveKind::kRows;
  if (!rows && (op.kind != MoveKind::kTranspose || op.converts ||
                op.item != 2 || op.rows % 8 != 0 || op.cols % 8 != 0)) {
    return false;
  }
  uint64_t bits = reinterpret_cast<uintptr_t>(op.src) |
                  reinterpret_cast<uintptr_t>(op.dst) |
                  static_cast<uint64_t>(op.dst_row_bytes) |
                  static_cast<uint64_t>(rows ? op.src_row_bytes | op.cols
                                             : op.src_col_bytes);
  for (int i = 0; i < 2; ++i) {
    bits |= static_cast<uint64_t>(op.outer_src_bytes[i]) |
            static_cast<uint64_t>(op.outer_dst_bytes[i]);
  }
  return bits % 16 == 0;
}

bool ElementsAligned(const MoveOp& op, int64_t from, int64_t to) {
  const auto src = reinterpret_cast<uintptr_t>(op.src);
  const auto dst = reinterpret_cast<uintptr_t>(op.dst);
  bool aligned = src % static_cast<uintptr_t>(from) == 0 &&
                 dst % static_cast<uintptr_t>(to) == 0;
  for (const int64_t stride : {op.src_row_bytes, op.src_col_bytes,
                               op.outer_src_bytes[0], op.outer_src_bytes[1]}) {
    aligned = aligned && stride % from == 0;
  }
  for (const int64_t stride : {op.dst_row_bytes, op.dst_col_bytes,
                               op.outer_dst_bytes[0], op.outer_dst_bytes[1]}) {
    aligned = aligned && stride % to == 0;
  }
  return aligned;
}

// Tiles of at most `tile_elements`, as wide as the plane if that leaves room.
void CutPlane(int64_t tile_elements, MoveOp& op) {
  op.tile_cols = static_cast<uint32_t>(std::min(op.cols, tile_elements));
  op.tile_rows = static_cast<uint32_t>(
      std::clamp<int64_t>(tile_elements / op.cols, 1, op.rows));
  op.col_tiles = static_cast<uint32_t>(CeilDiv(op.cols, op.tile_cols));
  op.row_tiles = static_cast<uint32_t>(CeilDiv(op.rows, op.tile_rows));
}

// Whether tall tiles have little beyond the plane.
bool IsTall(int64_t rows) {
  return CeilDiv(rows, kTallRows) * kTallRows <= rows + rows / 4;
}

void CutSquares(MoveOp& op) {
  op.tile_rows = kTransposeSide;
  op.tile_cols = kTransposeSide;
  if (op.wide) op.tile_cols = kWideCols;
  if (op.wide && IsTall(op.rows)) op.tile_rows = kTallRows;
  if (!op.converts && op.item == 8) op.tile_cols = kLongCols;
  op.row_tiles = static_cast<uint32_t>(CeilDiv(op.rows, op.tile_rows));
  op.col_tiles = static_cast<uint32_t>(CeilDiv(op.cols, op.tile_cols));
}

std::vector<Tile>& TilesOf(const MoveOp& op, Lowered& lowered) {
  if (op.kind == MoveKind::kRows) {
    return op.wide ? lowered.row_tiles : lowered.byte_tiles;
  }
  if (op.kind == MoveKind::kTranspose && op.wide) {
    return op.tile_rows == kTallRows ? lowered.tall_tiles : lowered.wide_tiles;
  }
  return lowered.element_tiles;
}

// Tiles in the order in which a grid takes them. Of a transposition, bands of
// some tile rows at a time: neighbours along the rows then read pages of the
// source's memory together, and not only write the destination's.
void AddTiles(const MoveOp& op, size_t number, std::vector<Tile>& tiles) {
  if (op.kind != MoveKind::kTranspose) {
    for (int64_t tile = 0; tile < op.num_tiles(); ++tile) {
      tiles.push_back(MakeTile(number, tile));
    }
    return;
  }
  const int64_t band_tiles = kBandRows / op.tile_rows;
  const int64_t plane_tiles = int64_t{op.row_tiles} * op.col_tiles;
  for (int64_t plane = 0; plane < op.num_tiles(); plane += plane_tiles) {
    for (int64_t begin = 0; begin < op.row_tiles; begin += band_tiles) {
      const int64_t end = std::min<int64_t>(begin + band_tiles, op.row_tiles);
      for (int64_t col = 0; col < op.col_tiles; ++col) {
        for (int64_t row = begin; row < end; ++row) {
          tiles.push_back(MakeTile(number, plane + row * op.col_tiles + col));
        }
      }
    }
  }
}

// Adds `op`, once for every combination of the modes that it has no place for.
void AddMove(MoveOp op, Modes outer, int64_t from, int64_t to,
             Lowered& lowered) {
  // The longest two stay in the op.
  std::stable_sort(
      outer.begin(), outer.end(),
      [](const CopyMode& a, const CopyMode& b) { return a.extent > b.extent; });
  for (size_t i = 0; i < 2 && i < outer.size(); ++i) {
    op.outer_extent[i] = outer[i].extent;
    op.outer_src_bytes[i] = outer[i].src_stride_bytes;
    op.outer_dst_bytes[i] = outer[i].dst_stride_bytes;
  }
  outer.erase(outer.begin(),
              outer.begin() + static_cast<std::ptrdiff_t>(
                                  std::min<size_t>(2, outer.size())));
  ForEach(outer, [&](int64_t src, int64_t dst) {
    MoveOp each = op;
    each.src += src;
    each.dst += dst;
    each.aligned = ElementsAligned(each, from, to);
    each.wide = IsWide(each);
    if (each.kind == MoveKind::kTranspose) CutSquares(each);
    const size_t number = lowered.moves.size();
    AddTiles(each, number, TilesOf(each, lowered));
    lowered.moves.push_back(each);
  });
}

void TakeRows(Modes& modes, MoveOp& op) {
  if (modes.empty()) return;
  op.rows = modes.back().extent;
  op.src_row_bytes = modes.back().src_stride_bytes;
  op.dst_row_bytes = modes.back().dst_stride_bytes;
  modes.pop_back();
}

void TakeCols(Modes& modes, MoveOp& op) {
  if (modes.empty()) return;
  op.cols = modes.back().extent;
  op.src_col_bytes = modes.back().src_stride_bytes;
  op.dst_col_bytes = modes.back().dst_stride_bytes;
  modes.pop_back();
}

void LowerRows(Canonical copy, Lowered& lowered) {
  const int64_t width = copy.run * copy.from_bytes;
  if (copy.num_runs() <= kMostPieceRuns &&
      copy.num_runs() * width <= kMostPieceBytes) {
    ForEach(copy.modes, [&](int64_t src, int64_t dst) {
      lowered.pieces.push_back({copy.src + src, copy.dst + dst, width});
    });
    return;
  }
  MoveOp op;
  op.kind = MoveKind::kRows;
  op.src = copy.src;
  op.dst = copy.dst;
  op.cols = width;
  TakeRows(copy.modes, op);
  CutPlane(kRowTileBytes, op);
  AddMove(op, std::move(copy.modes), 1, 1, lowered);
}

// The modes whose elements lie side by side at the source and at the
// destination, if both are long enough: moved to the end of `modes`.
bool FindTranspose(int64_t from, int64_t to, Modes& modes) {
  size_t row = modes.size();
  size_t col = modes.size();
  for (size_t i = 0; i < modes.size(); ++i) {
    if (modes[i].extent < kLeastSide) continue;
    if (modes[i].src_stride_bytes == from) row = i;
    if (modes[i].dst_stride_bytes == to) col = i;
  }
  if (row == modes.size() || col == modes.size() || row == col) return false;
  const CopyMode rows = modes[row];
  const CopyMode cols = modes[col];
  modes.erase(modes.begin() + static_cast<std::ptrdiff_t>(std::max(row, col)));
  modes.erase(modes.begin() + static_cast<std::ptrdiff_t>(std::min(row, col)));
  modes.push_back(rows);
  modes.push_back(cols);
  return true;
}

void LowerElements(const tensor::Conversion& conversion, Canonical copy,
                   Lowered& lowered) {
  int64_t from = copy.from_bytes;
  int64_t to = copy.to_bytes;
  MoveOp op;
  op.converts = !conversion.identity();
  op.from = static_cast<uint8_t>(conversion.from);
  op.to = static_cast<uint8_t>(conversion.to);
  op.transform = static_cast<uint8_t>(conversion.transform);
  op.src = copy.src;
  op.dst = copy.dst;
  if (!op.converts && copy.run > 1) {
    // A short run: the widest elements that it is made of.
    const int64_t bytes = copy.run * from;
    int64_t item = 8;
    while (bytes % item != 0) item /= 2;
    if (bytes != item) copy.modes.push_back({bytes / item, item, item});
    from = to = item;
    copy.run = 1;
  }
  op.item = static_cast<uint8_t>(from);
  if (copy.run > 1) {
    op.kind = MoveKind::kCast;
    op.cols = copy.run;
    op.src_col_bytes = from;
    op.dst_col_bytes = to;
    TakeRows(copy.modes, op);
    CutPlane(kElementTile, op);
  } else if (FindTranspose(from, to, copy.modes)) {
    op.kind = MoveKind::kTranspose;
    TakeCols(copy.modes, op);
    TakeRows(copy.modes, op);
  } else {
    op.kind = MoveKind::kStrided;
    TakeCols(copy.modes, op);
    TakeRows(copy.modes, op);
    CutPlane(kElementTile, op);
  }
  AddMove(op, std::move(copy.modes), from, to, lowered);
}

}  // namespace

void LowerCopy(const StridedCopy& copy, CopyWay way, const Costs& costs,
               Lowered& lowered) {
  for (const CopyMode& mode : copy.modes) {
    if (mode.extent == 0) return;
  }
  const Canonical canonical = Canonicalise(copy);
  const bool identity = copy.conversion.identity();
  if (identity && LowerToEngine(canonical, way, costs, lowered)) return;
  lowered.info.kernel_copy_bytes +=
      canonical.num_runs() * canonical.run * canonical.to_bytes;
  const int64_t width = canonical.run * canonical.from_bytes;
  if (identity && (width >= kLeastRowBytes || canonical.modes.empty())) {
    LowerRows(canonical, lowered);
  } else {
    LowerElements(copy.conversion, canonical, lowered);
  }
}

namespace {

bool IsBulk(const Piece& piece) {
  return (reinterpret_cast<uintptr_t>(piece.src) |
          reinterpret_cast<uintptr_t>(piece.dst) |
          static_cast<uintptr_t>(piece.bytes)) %
                 16 ==
             0 &&
         piece.bytes >= kLeastBulkBytes;
}

// Fills tiles one after another, and cuts pieces where a tile ends, at whole
// lines of the destination.
class BulkPacker {
 public:
  explicit BulkPacker(Lowered& lowered) : lowered_(lowered) {}

  void Add(Piece piece) {
    while (piece.bytes > 0) {
      int64_t taken = std::min(piece.bytes, kBulkTileBytes - bytes_);
      if (taken < piece.bytes) {
        const auto end = reinterpret_cast<uintptr_t>(piece.dst + taken);
        taken -= static_cast<int64_t>(end % kLineBytes);
      }
      if (taken < std::min(piece.bytes, kLeastBulkBytes) ||
          count_ == kMaxBulkPieces) {
        Close();
        continue;
      }
      lowered_.bulk_pieces.push_back({piece.src, piece.dst, taken});
      piece.src += taken;
      piece.dst += taken;
      piece.bytes -= taken;
      bytes_ += taken;
      ++count_;
    }
  }

  void Close() {
    if (count_ == 0) return;
    lowered_.bulk_tiles.push_back(
        MakeTile(static_cast<size_t>(count_),
                 static_cast<int64_t>(lowered_.bulk_pieces.size()) - count_));
    bytes_ = 0;
    count_ = 0;
  }

 private:
  Lowered& lowered_;
  int64_t bytes_ = 0;  // of the tile that is being filled
  int count_ = 0;
};

}  // namespace

void PackPieces(const Costs& costs, Lowered& lowered) {
  BulkPacker packer(lowered);
  if (costs.has_bulk_copies) {
    std::erase_if(lowered.pieces, [&](const Piece& piece) {
      if (!IsBulk(piece)) return false;
      packer.Add(piece);
      return true;
    });
    packer.Close();
  }
  for (size_t begin = 0; begin < lowered.pieces.size();) {
    MoveOp op;
    op.kind = MoveKind::kPieces;
    op.first_piece = static_cast<int64_t>(begin);
    for (int64_t bytes = 0;
         begin < lowered.pieces.size() && op.num_pieces < kMaxPieces; ++begin) {
      bytes += lowered.pieces[begin].bytes;
      if (bytes > kRowTileBytes && op.num_pieces > 0) break;
      ++op.num_pieces;
    }
    lowered.byte_tiles.push_back(MakeTile(lowered.moves.size(), 0));
    lowered.moves.push_back(op);
  }
}

}  // namespace weft::convert::cuda
