#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "weft/convert/cpu/simd.h"
#include "weft/convert/cpu/strided.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/tensor/dtype.h"

namespace weft::convert {
namespace {

// Copies of this size do not stay in a core's own caches, so that writing
// around them costs no reader a miss and saves reading each line first.
constexpr int64_t kStreamBytes = int64_t{512} << 10;

class Cpu final : public Kernels {
 public:
  std::string_view name() const override { return "cpu"; }

  void Copy(const StridedCopy& copy) const override {
    int64_t num_elements = 1;
    for (const CopyMode& mode : copy.modes) num_elements *= mode.extent;
    if (num_elements == 0) return;
    cpu::CopyModes modes = cpu::TidyModes(copy.modes);
    if (!copy.conversion.identity()) {
      cpu::CopyCast(copy.src, copy.dst, std::move(modes), copy.conversion);
      return;
    }
    const int64_t item = tensor::ItemBytes(copy.conversion.to);
    const bool stream = num_elements * item >= kStreamBytes;
    cpu::CopyIdentity(copy.src, copy.dst, std::move(modes),
                      static_cast<int>(item), stream);
    if (stream) cpu::FlushStreams();
  }

  void Quantise(const BlockQuantisation& work) const override {
    cpu::QuantiseBlocks(work);
  }

  void DequantiseMxfp4(const Mxfp4Blocks& work) const override {
    cpu::DequantiseMxfp4(work);
  }

  void DigestRow(const DigestConstants& constants, const std::byte* data,
                 int64_t num_elements, int item_bytes, int row, int col,
                 DigestValue& value) const override {
    assert(row >= 0 && row < tensor::kTileRows);
    assert(col >= 0 && col + num_elements <= tensor::kTileCols);
    cpu::DigestPartialTile(constants,
                           {.data = data,
                            .row_stride_bytes = 0,
                            .num_rows = 1,
                            .row = row,
                            .row_bytes = num_elements * item_bytes,
                            .first_byte = int64_t{col} * item_bytes},
                           value);
  }

  void DigestBand(const DigestConstants& constants, const std::byte* data,
                  int64_t row_stride_bytes, int num_rows, int64_t num_cols,
                  int item_bytes, int row, int col,
                  absl::Span<DigestValue> values) const override {
    assert(row >= 0 && row + num_rows <= tensor::kTileRows);
    assert(col >= 0 && col < tensor::kTileCols);
    cpu::DigestRows rows{.data = data,
                         .row_stride_bytes = row_stride_bytes,
                         .num_rows = num_rows,
                         .row = row};
    // The tiles that the band cuts, at its two ends.
    const auto digest_part = [&](int64_t cols, int64_t first_col, size_t tile) {
      rows.row_bytes = cols * item_bytes;
      rows.first_byte = first_col * item_bytes;
      cpu::DigestPartialTile(constants, rows, values[tile]);
      rows.data += rows.row_bytes;
    };
    size_t tile = 0;
    int64_t left = num_cols;
    if (col > 0 && left > 0) {
      const int64_t head = std::min<int64_t>(tensor::kTileCols - col, left);
      digest_part(head, col, tile++);
      left -= head;
    }
    const auto whole = static_cast<size_t>(left / tensor::kTileCols);
    if (whole > 0) {
      rows.row_bytes = tensor::kTileCols * item_bytes;
      rows.first_byte = 0;
      cpu::DigestWholeTiles(constants, rows, values.subspan(tile, whole));
      rows.data += static_cast<int64_t>(whole) * rows.row_bytes;
      tile += whole;
      left -= static_cast<int64_t>(whole) * tensor::kTileCols;
    }
    if (left > 0) digest_part(left, 0, tile);
  }
};

}  // namespace

const Kernels& CpuKernels() {
  static const Cpu* const kernels = new Cpu;
  return *kernels;
}

}  // namespace weft::convert
