// What the descriptors mean, written to be read.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/convert/cuda/lower_internal.h"
#include "weft/convert/cuda/testing/runner.h"
#include "weft/convert/reference/element.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::convert::cuda::testing {
namespace {

using tensor::DType;
using tensor::kTileCols;
using tensor::kTileRows;

class Interpreter {
 public:
  Interpreter(const Lowered& lowered, const RunInputs& inputs)
      : lowered_(lowered),
        inputs_(inputs),
        values_(static_cast<size_t>(lowered.num_values)) {}

  absl::StatusOr<std::vector<DigestValue>> Run() {
    for (const EngineCopy& copy : lowered_.engine) RunEngine(copy);
    const auto lists = ListsOf(lowered_);
    for (const Tile& tile : *lists[kBulk]) RunBulk(tile);
    for (const List list : {kRows, kBytes, kWide, kTall, kElements}) {
      for (const Tile& tile : *lists[list]) {
        RunMove(lowered_.moves[tile.op], tile.index);
      }
    }
    for (const List list : {kFusedWhole, kFusedParts}) {
      for (const Tile& tile : *lists[list]) RunDigest(tile);
    }
    for (const List list : {kBlocks, kHeld}) {
      for (const Tile& tile : *lists[list]) RunBlock(tile);
    }
    for (const Tile& tile : lowered_.chunk_tiles) RunChunk(tile);
    if (inputs_.constants != nullptr) {
      for (const List list : {kDigestWhole, kDigestParts}) {
        for (const Tile& tile : *lists[list]) RunDigest(tile);
      }
    }
    if (!fault_.empty()) return absl::OutOfRangeError(fault_);
    return std::move(values_);
  }

 private:
  bool Allowed(const std::byte* data, int64_t size, bool write) {
    for (const Memory& memory : inputs_.memories) {
      if (data >= memory.data && data + size <= memory.data + memory.size &&
          (memory.written || !write)) {
        return true;
      }
    }
    fault_ = absl::StrCat(write ? "a write" : "a read", " of ", size,
                          " bytes beyond the memories");
    return false;
  }

  void CopyBytes(const std::byte* src, std::byte* dst, int64_t bytes) {
    if (!Allowed(src, bytes, false) || !Allowed(dst, bytes, true)) return;
    std::memcpy(dst, src, static_cast<size_t>(bytes));
  }

  void Convert(const tensor::Conversion& conversion, const std::byte* src,
               std::byte* dst) {
    if (!Allowed(src, tensor::ItemBytes(conversion.from), false)) return;
    if (!Allowed(dst, tensor::ItemBytes(conversion.to), true)) return;
    reference::ConvertElement(conversion, src, dst);
  }

  void RunEngine(const EngineCopy& copy) {
    for (int64_t slice = 0; slice < copy.depth; ++slice) {
      for (int64_t row = 0; row < copy.height; ++row) {
        CopyBytes(
            copy.src + (slice * copy.src_slice_rows + row) * copy.src_pitch,
            copy.dst + (slice * copy.dst_slice_rows + row) * copy.dst_pitch,
            copy.width);
      }
    }
  }

  void RunBulk(const Tile& tile) {
    int64_t bytes = 0;
    for (uint32_t i = 0; i < tile.op; ++i) {
      const Piece& piece = lowered_.bulk_pieces[tile.index + i];
      const uintptr_t bits = reinterpret_cast<uintptr_t>(piece.src) |
                             reinterpret_cast<uintptr_t>(piece.dst) |
                             static_cast<uintptr_t>(piece.bytes);
      if (bits % 16 != 0) fault_ = "a bulk piece that is not aligned";
      CopyBytes(piece.src, piece.dst, piece.bytes);
      bytes += piece.bytes;
    }
    if (bytes > kBulkTileBytes || tile.op > kMaxBulkPieces) {
      fault_ = absl::StrCat("a bulk tile of ", tile.op, " pieces and ", bytes,
                            " bytes");
    }
  }

  void RunMove(const MoveOp& op, int64_t index) {
    if (op.kind == MoveKind::kPieces) {
      for (int64_t i = 0; i < op.num_pieces; ++i) {
        const Piece& piece =
            lowered_.pieces[static_cast<size_t>(op.first_piece + i)];
        CopyBytes(piece.src, piece.dst, piece.bytes);
      }
      return;
    }
    const int64_t col_tile = index % op.col_tiles;
    const int64_t row_tile = index / op.col_tiles % op.row_tiles;
    const int64_t outer = index / op.col_tiles / op.row_tiles;
    const int64_t digits[2] = {outer % op.outer_extent[0],
                               outer / op.outer_extent[0]};
    const std::byte* src = op.src;
    std::byte* dst = op.dst;
    for (int i = 0; i < 2; ++i) {
      src += digits[i] * op.outer_src_bytes[i];
      dst += digits[i] * op.outer_dst_bytes[i];
    }
    const int64_t row_begin = row_tile * op.tile_rows;
    const int64_t col_begin = col_tile * op.tile_cols;
    for (int64_t row = row_begin;
         row < std::min(row_begin + op.tile_rows, op.rows); ++row) {
      const int64_t col_end = std::min(col_begin + op.tile_cols, op.cols);
      if (op.kind == MoveKind::kRows) {
        CopyBytes(src + row * op.src_row_bytes + col_begin,
                  dst + row * op.dst_row_bytes + col_begin,
                  col_end - col_begin);
        continue;
      }
      for (int64_t col = col_begin; col < col_end; ++col) {
        const std::byte* const from =
            src + row * op.src_row_bytes + col * op.src_col_bytes;
        std::byte* const to =
            dst + row * op.dst_row_bytes + col * op.dst_col_bytes;
        if (op.converts) {
          Convert(ConversionOf(op), from, to);
        } else {
          CopyBytes(from, to, op.item);
        }
      }
    }
  }

  template <typename Op>
  static tensor::Conversion ConversionOf(const Op& op) {
    return {static_cast<DType>(op.from), static_cast<DType>(op.to),
            static_cast<tensor::Transform>(op.transform)};
  }

  // Adds an element of a plane at (row, col) of it.
  void AddElement(const Place& place, const std::byte* element, int item,
                  int64_t row, int64_t col) {
    if (inputs_.constants == nullptr || !Allowed(element, item, false)) return;
    const int64_t tile_row = place.row_phase + row;
    const int64_t tile_col = place.col_phase + col;
    const int64_t value = place.first_value +
                          tile_row / kTileRows * place.values_per_row +
                          tile_col / kTileCols;
    ReferenceKernels().DigestRow(*inputs_.constants, element, 1, item,
                                 static_cast<int>(tile_row % kTileRows),
                                 static_cast<int>(tile_col % kTileCols),
                                 values_[static_cast<size_t>(value)]);
  }

  void RunDigest(const Tile& tile) {
    const DigestOp& op = lowered_.digests[tile.op];
    const int64_t end = int64_t{tile.index} + tile.more + 1;
    for (int64_t index = tile.index; index < end; ++index) {
      const int64_t row_begin =
          index / op.tiles_across * kTileRows - op.place.row_phase;
      const int64_t col_begin =
          index % op.tiles_across * kTileCols - op.place.col_phase;
      for (int64_t row = std::max<int64_t>(row_begin, 0);
           row < std::min(row_begin + kTileRows, op.rows); ++row) {
        for (int64_t col = std::max<int64_t>(col_begin, 0);
             col < std::min(col_begin + kTileCols, op.cols); ++col) {
          RunDigestElement(op, row, col);
        }
      }
    }
  }

  void RunDigestElement(const DigestOp& op, int64_t row, int64_t col) {
    const std::byte* const src =
        op.data + row * op.row_bytes + col * op.col_bytes;
    AddElement(op.place, src, op.item, row, col);
    if (op.dst == nullptr) return;
    if (op.converts) {
      const tensor::Conversion conversion = ConversionOf(op);
      Convert(conversion, src,
              op.dst + row * op.dst_row_bytes +
                  col * tensor::ItemBytes(conversion.to));
    } else {
      CopyBytes(src, op.dst + row * op.dst_row_bytes + col * op.item, op.item);
    }
  }

  // The reference's quantiser over one block, by way of a matrix that is it.
  void RunBlock(const Tile& tile) {
    const QuantiseOp& op = lowered_.quantisations[tile.op];
    const int64_t block_row = tile.index / op.blocks_across;
    const int64_t block_col = tile.index % op.blocks_across;
    const int64_t row = block_row * op.block_rows;
    const int64_t col = block_col * op.block_cols;
    const int64_t item = tensor::ItemBytes(static_cast<DType>(op.from));
    BlockQuantisation work;
    work.src = op.src + row * op.src_row_bytes + col * item;
    work.src_dtype = static_cast<DType>(op.from);
    work.src_stride_bytes = op.src_row_bytes;
    work.rows = std::min(op.block_rows, op.rows - row);
    work.cols = std::min(op.block_cols, op.cols - col);
    work.block_rows = work.rows;
    work.block_cols = work.cols;
    work.rule = op.power_of_two ? tensor::ScaleRule::kPowerOfTwo
                                : tensor::ScaleRule::kFloat;
    work.dst = op.dst + row * op.dst_row_bytes + col;
    work.dst_stride_bytes = op.dst_row_bytes;
    work.scales = op.scales + block_row * op.scale_row_bytes +
                  block_col * op.scale_col_bytes;
    if (!Allowed(work.scales, 4, true)) return;
    for (int64_t r = 0; r < work.rows; ++r) {
      if (!Allowed(work.src + r * op.src_row_bytes, work.cols * item, false) ||
          !Allowed(work.dst + r * op.dst_row_bytes, work.cols, true)) {
        return;
      }
    }
    ReferenceKernels().Quantise(work);
    for (int64_t r = 0; r < work.rows; ++r) {
      for (int64_t c = 0; c < work.cols; ++c) {
        if (op.source_place.first_value >= 0) {
          AddElement(op.source_place,
                     work.src + r * op.src_row_bytes + c * item,
                     static_cast<int>(item), row + r, col + c);
        }
        if (op.result_place.first_value >= 0) {
          AddElement(op.result_place, work.dst + r * op.dst_row_bytes + c, 1,
                     row + r, col + c);
        }
      }
    }
  }

  // Chunks of one block come one after another; the first does it all, the
  // others are checked to lie where they should.
  void RunChunk(const Tile& tile) {
    const QuantiseOp& op = lowered_.quantisations[tile.op];
    const int64_t chunks = int64_t{op.chunks_down} * op.chunks_across;
    if (op.chunk_rows * op.chunks_down < std::min(op.block_rows, op.rows) ||
        op.chunk_cols * op.chunks_across < std::min(op.block_cols, op.cols)) {
      fault_ = "chunks do not cover their block";
    }
    if (op.first_amax + tile.index / chunks >= lowered_.num_amax) {
      fault_ = "a maximum without a place";
    }
    if (tile.index % chunks == 0) {
      RunBlock(MakeTile(tile.op, tile.index / chunks));
    }
  }

  const Lowered& lowered_;
  const RunInputs& inputs_;
  std::vector<DigestValue> values_;
  std::string fault_;
};

class InterpretingRunner final : public Runner {
 public:
  explicit InterpretingRunner(const Costs& costs) : costs_(costs) {}

  absl::StatusOr<std::vector<DigestValue>> Run(
      const RunInputs& inputs) override {
    absl::StatusOr<Lowered> lowered =
        Lower(inputs.spec, inputs.options, costs_);
    if (!lowered.ok()) return lowered.status();
    return Interpreter(*lowered, inputs).Run();
  }

 private:
  const Costs costs_;
};

}  // namespace

std::unique_ptr<Runner> MakeInterpreter(const Costs& costs) {
  return std::make_unique<InterpretingRunner>(costs);
}

}  // namespace weft::convert::cuda::testing
