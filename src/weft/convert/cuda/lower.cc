#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/checked.h"
#include "weft/convert/cuda/lower_internal.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::convert::cuda {
namespace {

using base::CeilDiv;
using tensor::kTileCols;
using tensor::kTileRows;

constexpr size_t kMostFaults = 8;

uintptr_t AddressOf(const std::byte* data) {
  return reinterpret_cast<uintptr_t>(data);
}

bool IsMultiple(const std::byte* data, int64_t of) {
  return AddressOf(data) % static_cast<uintptr_t>(of) == 0;
}

// Gathers what is wrong with a spec, a sentence each.
class Faults {
 public:
  void Add(std::string fault) {
    if (faults_.size() < kMostFaults) faults_.push_back(std::move(fault));
    ++count_;
  }
  absl::Status ToStatus() const {
    if (count_ == 0) return absl::OkStatus();
    std::string text = absl::StrJoin(faults_, "; ");
    if (count_ > faults_.size()) {
      absl::StrAppend(&text, "; and ", count_ - faults_.size(), " more");
    }
    return absl::InvalidArgumentError(text);
  }

 private:
  std::vector<std::string> faults_;
  size_t count_ = 0;
};

struct LatticeSpan {
  int64_t down = 0;
  int64_t across = 0;
};

LatticeSpan SpanOf(const DigestPlace& place, int64_t rows, int64_t cols) {
  return {CeilDiv(place.row_begin % kTileRows + rows, kTileRows),
          CeilDiv(place.col_begin % kTileCols + cols, kTileCols)};
}

void CheckPlace(const std::string& name, const DigestPlace& place, int64_t rows,
                int64_t cols, int64_t num_values, Faults& faults) {
  if (place.row_begin < 0 || place.col_begin < 0) {
    faults.Add(absl::StrCat(name, " has its first element at (",
                            place.row_begin, ", ", place.col_begin, ")"));
    return;
  }
  if (rows <= 0 || cols <= 0) return;
  const LatticeSpan span = SpanOf(place, rows, cols);
  const int64_t last =
      place.first_value + (span.down - 1) * place.values_per_row + span.across;
  if (place.first_value < 0 || place.values_per_row < 0 || last > num_values) {
    faults.Add(absl::StrCat(name, " needs digest values ", place.first_value,
                            " to ", last, " of ", num_values));
  }
}

void CheckCopy(const std::string& name, const Copy& copy, int64_t num_values,
               Faults& faults) {
  const absl::Status supported = tensor::CheckSupported(copy.copy.conversion);
  if (!supported.ok()) {
    faults.Add(absl::StrCat(name, ": ", supported.message()));
  }
  for (const CopyMode& mode : copy.copy.modes) {
    if (mode.extent < 0) {
      faults.Add(absl::StrCat(name, " has extent ", mode.extent));
      return;
    }
  }
  if (!copy.source_digest) return;
  const auto& modes = copy.copy.modes;
  if (modes.size() > 2) {
    faults.Add(absl::StrCat(name, " is to be digested and has ", modes.size(),
                            " modes, at most 2 are possible"));
    return;
  }
  CheckPlace(name, *copy.source_digest,
             modes.size() < 2 ? 1 : modes.front().extent,
             modes.empty() ? 1 : modes.back().extent, num_values, faults);
}

void CheckQuantisation(const std::string& name, const Quantisation& work,
                       int64_t num_values, Faults& faults) {
  const BlockQuantisation& block = work.block;
  if (block.src_dtype != tensor::DType::kBF16 &&
      block.src_dtype != tensor::DType::kF16 &&
      block.src_dtype != tensor::DType::kF32) {
    faults.Add(absl::StrCat(name, " is of ",
                            std::string(tensor::DTypeName(block.src_dtype)),
                            ", BF16, F16 and F32 can be quantised"));
  }
  if (block.rows < 0 || block.cols < 0 || block.block_rows < 1 ||
      block.block_cols < 1) {
    faults.Add(absl::StrCat(name, " has ", block.rows, " x ", block.cols,
                            " elements in blocks of ", block.block_rows, " x ",
                            block.block_cols));
    return;
  }
  for (const auto& place : {work.source_digest, work.result_digest}) {
    if (place) {
      CheckPlace(name, *place, block.rows, block.cols, num_values, faults);
    }
  }
}

void CheckDigest(const std::string& name, const Digest& digest,
                 int64_t num_values, Faults& faults) {
  const int item = digest.item_bytes;
  if (item != 1 && item != 2 && item != 4 && item != 8) {
    faults.Add(absl::StrCat(name, " has items of ", item, " bytes"));
  }
  if (digest.rows < 0 || digest.cols < 0) {
    faults.Add(absl::StrCat(name, " has ", digest.rows, " x ", digest.cols,
                            " elements"));
    return;
  }
  CheckPlace(name, digest.place, digest.rows, digest.cols, num_values, faults);
}

absl::Status Check(const ProgramSpec& spec) {
  Faults faults;
  if (spec.num_values < 0) {
    faults.Add(absl::StrCat(spec.num_values, " digest values"));
  }
  for (size_t i = 0; i < spec.copies.size(); ++i) {
    CheckCopy(absl::StrCat("copy ", i), spec.copies[i], spec.num_values,
              faults);
  }
  for (size_t i = 0; i < spec.quantisations.size(); ++i) {
    CheckQuantisation(absl::StrCat("quantisation ", i), spec.quantisations[i],
                      spec.num_values, faults);
  }
  for (size_t i = 0; i < spec.digests.size(); ++i) {
    CheckDigest(absl::StrCat("digest ", i), spec.digests[i], spec.num_values,
                faults);
  }
  return faults.ToStatus();
}

Place ToPlace(const DigestPlace& place) {
  Place result;
  result.first_value = place.first_value;
  result.values_per_row = place.values_per_row;
  result.row_phase = static_cast<int32_t>(place.row_begin % kTileRows);
  result.col_phase = static_cast<int32_t>(place.col_begin % kTileCols);
  return result;
}

// The op of a plane, without its tiles.
DigestOp MakeDigestOp(const Digest& digest) {
  DigestOp op;
  op.place = ToPlace(digest.place);
  op.data = digest.data;
  op.rows = digest.rows;
  op.cols = digest.cols;
  op.row_bytes = digest.rows == 1 ? 0 : digest.row_stride_bytes;
  op.col_bytes = digest.cols == 1 ? digest.item_bytes : digest.col_stride_bytes;
  op.item = static_cast<uint8_t>(digest.item_bytes);
  const LatticeSpan span = SpanOf(digest.place, digest.rows, digest.cols);
  op.tiles_down = static_cast<uint32_t>(span.down);
  op.tiles_across = static_cast<uint32_t>(span.across);
  if (op.col_bytes == digest.item_bytes) {
    const std::byte* const tile_row =
        op.data - int64_t{op.place.col_phase} * digest.item_bytes;
    op.alignment = 1;
    for (const int alignment : {4, 16}) {
      if (IsMultiple(tile_row, alignment) && op.row_bytes % alignment == 0) {
        op.alignment = static_cast<uint8_t>(alignment);
      }
    }
  }
  return op;
}

// Tiles [begin, end) of a row of the lattice, some at a time.
void AddTileRun(size_t op, int64_t begin, int64_t end,
                std::vector<Tile>& tiles) {
  for (int64_t tile = begin; tile < end; tile += kDigestTiles) {
    tiles.push_back(
        MakeTile(op, tile, std::min<int64_t>(kDigestTiles, end - tile) - 1));
  }
}

void AddDigestOp(const DigestOp& op, std::vector<Tile>& whole,
                 std::vector<Tile>& parts, Lowered& lowered) {
  const size_t number = lowered.digests.size();
  lowered.digests.push_back(op);
  const bool fast = op.alignment == 16 && !op.converts;
  // Columns of tiles that the plane has all of.
  const int64_t first = op.place.col_phase == 0 ? 0 : 1;
  const int64_t last = (op.place.col_phase + op.cols) / kTileCols;
  for (int64_t down = 0; down < op.tiles_down; ++down) {
    const int64_t row = down * op.tiles_across;
    const int64_t row_begin = down * kTileRows - op.place.row_phase;
    if (!fast || last <= first || row_begin < 0 ||
        row_begin + kTileRows > op.rows) {
      AddTileRun(number, row, row + op.tiles_across, parts);
      continue;
    }
    AddTileRun(number, row, row + first, parts);
    AddTileRun(number, row + first, row + last, whole);
    AddTileRun(number, row + last, row + op.tiles_across, parts);
  }
}

// Whether the group that quantises a block can hold it in registers.
bool ReadOnce(const BlockQuantisation& work) {
  if (tensor::ItemBytes(work.src_dtype) != 2) return false;
  const int64_t block_rows = std::min(work.block_rows, work.rows);
  const int64_t block_cols = std::min(work.block_cols, work.cols);
  if (block_rows > kBlockChunks ||
      CeilDiv(block_cols, kChunkElements) > kBlockChunks ||
      block_rows * CeilDiv(block_cols, kChunkElements) > kBlockChunks) {
    return false;
  }
  const bool one_across = block_cols == work.cols;
  const bool one_row = work.rows == 1;
  return (one_across || block_cols % kChunkElements == 0) &&
         IsMultiple(work.src, 16) && IsMultiple(work.dst, kChunkElements) &&
         (one_row || (work.src_stride_bytes % 16 == 0 &&
                      work.dst_stride_bytes % kChunkElements == 0));
}

// Whether a block consists of whole chunks of which a group holds whole rows at
// a time.
bool IsRegular(const QuantiseOp& op, int64_t block) {
  const int64_t col = block % op.blocks_across * op.block_cols;
  const int64_t cols = std::min(op.block_cols, op.cols - col);
  const int64_t chunks = cols / kChunkElements;
  return cols % kChunkElements == 0 && chunks <= kGroupThreads &&
         kGroupThreads % chunks == 0;
}

void CutChunks(const BlockQuantisation& work, QuantiseOp& op) {
  const int64_t block_rows = std::min(work.block_rows, work.rows);
  const int64_t block_cols = std::min(work.block_cols, work.cols);
  op.chunk_cols = std::min(block_cols, kElementTile);
  op.chunk_rows = std::clamp<int64_t>(kElementTile / block_cols, 1, block_rows);
  op.chunks_down = static_cast<uint32_t>(CeilDiv(block_rows, op.chunk_rows));
  op.chunks_across = static_cast<uint32_t>(CeilDiv(block_cols, op.chunk_cols));
}

Digest SourceDigest(const Quantisation& work) {
  const int item = static_cast<int>(tensor::ItemBytes(work.block.src_dtype));
  return {work.block.src,
          item,
          work.block.rows,
          work.block.cols,
          work.block.src_stride_bytes,
          item,
          *work.source_digest};
}

Digest ResultDigest(const Quantisation& work) {
  return {work.block.dst,
          1,
          work.block.rows,
          work.block.cols,
          work.block.dst_stride_bytes,
          1,
          *work.result_digest};
}

}  // namespace

void LowerQuantisation(const Quantisation& work, Lowered& lowered) {
  const BlockQuantisation& block = work.block;
  if (block.rows == 0 || block.cols == 0) return;
  QuantiseOp op;
  op.src = block.src;
  op.dst = block.dst;
  op.scales = block.scales;
  op.src_row_bytes = block.src_stride_bytes;
  op.dst_row_bytes = block.dst_stride_bytes;
  op.scale_row_bytes = block.scales_stride_bytes;
  op.scale_col_bytes = work.scales_col_stride_bytes;
  op.rows = block.rows;
  op.cols = block.cols;
  op.block_rows = block.block_rows;
  op.block_cols = block.block_cols;
  op.blocks_across = CeilDiv(block.cols, block.block_cols);
  op.from = static_cast<uint8_t>(block.src_dtype);
  op.power_of_two = block.rule == tensor::ScaleRule::kPowerOfTwo;
  const int64_t blocks =
      CeilDiv(block.rows, block.block_rows) * op.blocks_across;
  const bool once = ReadOnce(block);
  // A chunk of 8 elements never straddles two tiles of the lattice.
  const auto fuses = [&](const std::optional<DigestPlace>& place) {
    return place && once && place->col_begin % kChunkElements == 0;
  };
  const int64_t item = tensor::ItemBytes(block.src_dtype);
  const int64_t elements = block.rows * block.cols;
  if (fuses(work.source_digest)) {
    op.source_place = ToPlace(*work.source_digest);
    lowered.info.fused_digest_bytes += elements * item;
  } else if (work.source_digest) {
    LowerDigest(SourceDigest(work), lowered);
  }
  if (fuses(work.result_digest)) {
    op.result_place = ToPlace(*work.result_digest);
    lowered.info.fused_digest_bytes += elements;
  } else if (work.result_digest) {
    LowerDigest(ResultDigest(work), lowered);
  }
  const size_t number = lowered.quantisations.size();
  int64_t tiles = blocks;
  if (!once) {
    CutChunks(block, op);
    tiles *= int64_t{op.chunks_down} * op.chunks_across;
    op.first_amax = lowered.num_amax;
    lowered.num_amax += blocks;
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    std::vector<Tile>& list = !once                 ? lowered.chunk_tiles
                              : IsRegular(op, tile) ? lowered.block_tiles
                                                    : lowered.held_tiles;
    list.push_back(MakeTile(number, tile));
  }
  lowered.quantisations.push_back(op);
  lowered.info.quantised_elements += elements;
}

void LowerDigest(const Digest& digest, Lowered& lowered) {
  if (digest.rows == 0 || digest.cols == 0) return;
  AddDigestOp(MakeDigestOp(digest), lowered.digest_whole_tiles,
              lowered.digest_part_tiles, lowered);
  lowered.info.digested_bytes += digest.rows * digest.cols * digest.item_bytes;
}

void LowerDigestedCopy(const Copy& copy, CopyWay way, const Costs& costs,
                       Lowered& lowered) {
  const tensor::Conversion& conversion = copy.copy.conversion;
  const int64_t from = tensor::ItemBytes(conversion.from);
  const int64_t to = tensor::ItemBytes(conversion.to);
  CopyMode cols{1, from, to};
  CopyMode rows;
  if (!copy.copy.modes.empty()) cols = copy.copy.modes.back();
  if (copy.copy.modes.size() == 2) rows = copy.copy.modes.front();
  if (rows.extent == 0 || cols.extent == 0) return;
  DigestOp op = MakeDigestOp({copy.copy.src, static_cast<int>(from),
                              rows.extent, cols.extent, rows.src_stride_bytes,
                              cols.src_stride_bytes, *copy.source_digest});
  op.dst = copy.copy.dst;
  op.dst_row_bytes = rows.extent == 1 ? 0 : rows.dst_stride_bytes;
  op.from = static_cast<uint8_t>(conversion.from);
  op.to = static_cast<uint8_t>(conversion.to);
  op.transform = static_cast<uint8_t>(conversion.transform);
  op.converts = !conversion.identity();
  const bool side_by_side = cols.extent == 1 || cols.dst_stride_bytes == to;
  if (op.alignment == 16 && side_by_side &&
      IsMultiple(op.dst - int64_t{op.place.col_phase} * to, 16) &&
      op.dst_row_bytes % 16 == 0) {
    AddDigestOp(op, lowered.fused_whole_tiles, lowered.fused_part_tiles,
                lowered);
    lowered.info.fused_digest_bytes += rows.extent * cols.extent * from;
    lowered.info.kernel_copy_bytes += rows.extent * cols.extent * to;
    return;
  }
  LowerCopy(copy.copy, way, costs, lowered);
  LowerDigest(
      {copy.copy.src, static_cast<int>(from), rows.extent, cols.extent,
       rows.src_stride_bytes, cols.src_stride_bytes, *copy.source_digest},
      lowered);
}

std::array<const std::vector<Tile>*, kNumLists> ListsOf(
    const Lowered& lowered) {
  return {&lowered.row_tiles,         &lowered.byte_tiles,
          &lowered.bulk_tiles,        &lowered.wide_tiles,
          &lowered.tall_tiles,        &lowered.element_tiles,
          &lowered.fused_whole_tiles, &lowered.fused_part_tiles,
          &lowered.block_tiles,       &lowered.held_tiles,
          &lowered.chunk_tiles,       &lowered.digest_whole_tiles,
          &lowered.digest_part_tiles};
}

absl::StatusOr<Lowered> Lower(const ProgramSpec& spec,
                              const ProgramOptions& options,
                              const Costs& costs) {
  if (absl::Status status = Check(spec); !status.ok()) return status;
  Lowered lowered;
  lowered.num_values = spec.num_values;
  for (const Copy& copy : spec.copies) {
    if (copy.source_digest) {
      LowerDigestedCopy(copy, options.copy_way, costs, lowered);
    } else {
      LowerCopy(copy.copy, options.copy_way, costs, lowered);
    }
  }
  PackPieces(costs, lowered);
  for (const Quantisation& work : spec.quantisations) {
    LowerQuantisation(work, lowered);
  }
  for (const Digest& digest : spec.digests) LowerDigest(digest, lowered);
  lowered.info.engine_copies = static_cast<int64_t>(lowered.engine.size());
  for (const auto* tiles : ListsOf(lowered)) {
    lowered.info.tiles += static_cast<int64_t>(tiles->size());
  }
  return lowered;
}

}  // namespace weft::convert::cuda
