#include <cassert>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/reference/element.h"
#include "weft/convert/reference/quantise.h"

namespace weft::convert {
namespace {

class Reference final : public Kernels {
 public:
  std::string_view name() const override { return "reference"; }

  void Copy(const StridedCopy& copy) const override {
    CopyFrom(copy, 0, copy.src, copy.dst);
  }

  void Quantise(const BlockQuantisation& work) const override {
    reference::QuantiseBlocks(work);
  }

  void DequantiseMxfp4(const Mxfp4Blocks& work) const override {
    reference::DequantiseMxfp4(work);
  }

  void DigestRow(const DigestConstants& constants, const std::byte* data,
                 int64_t num_elements, int item_bytes, int row, int col,
                 DigestValue& value) const override {
    assert(row >= 0 && row < tensor::kTileRows);
    assert(col >= 0 && col + num_elements <= tensor::kTileCols);
    const int64_t first_byte = int64_t{col} * item_bytes;
    for (int64_t i = 0; i < num_elements * item_bytes; ++i) {
      // A word is the sum of its bytes, each at its place.
      const auto word = static_cast<size_t>((first_byte + i) / 4);
      const uint64_t byte_value = static_cast<uint64_t>(data[i])
                                  << (8 * ((first_byte + i) % 4));
      for (size_t s = 0; s < 2; ++s) {
        value.sum[s] += constants.row[s][static_cast<size_t>(row)] *
                        constants.col[s][word] * byte_value;
      }
    }
  }

  void DigestBand(const DigestConstants& constants, const std::byte* data,
                  int64_t row_stride_bytes, int num_rows, int64_t num_cols,
                  int item_bytes, int row, int col,
                  absl::Span<DigestValue> values) const override {
    for (int r = 0; r < num_rows; ++r) {
      for (int64_t c = 0; c < num_cols; ++c) {
        const int64_t tile_col = col + c;
        DigestRow(constants, data + r * row_stride_bytes + c * item_bytes, 1,
                  item_bytes, row + r,
                  static_cast<int>(tile_col % tensor::kTileCols),
                  values[static_cast<size_t>(tile_col / tensor::kTileCols)]);
      }
    }
  }

 private:
  static void CopyFrom(const StridedCopy& copy, size_t mode,
                       const std::byte* src, std::byte* dst) {
    if (mode == copy.modes.size()) {
      reference::ConvertElement(copy.conversion, src, dst);
      return;
    }
    const CopyMode& each = copy.modes[mode];
    for (int64_t i = 0; i < each.extent; ++i) {
      CopyFrom(copy, mode + 1, src + i * each.src_stride_bytes,
               dst + i * each.dst_stride_bytes);
    }
  }
};

}  // namespace

const Kernels& ReferenceKernels() {
  static const Reference* const kernels = new Reference;
  return *kernels;
}

}  // namespace weft::convert
