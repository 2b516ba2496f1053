#include "weft/convert/testing/host_program.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "weft/tensor/dtype.h"

namespace weft::convert::testing {
namespace {

using cuda::Copy;
using cuda::Digest;
using cuda::Quantisation;
using tensor::kTileCols;
using tensor::kTileRows;

class HostProgram final : public cuda::Program {
 public:
  explicit HostProgram(cuda::ProgramSpec spec)
      : spec_(std::move(spec)),
        values_(static_cast<size_t>(spec_.num_values)) {}

  absl::Status Launch(CUstream_st*,
                      const cuda::LaunchOptions& options) override {
    std::fill(values_.begin(), values_.end(), DigestValue());
    const Kernels& kernels = ReferenceKernels();
    for (const Copy& copy : spec_.copies) {
      kernels.Copy(copy.copy);
      if (copy.source_digest && options.constants != nullptr) {
        AddPlane(*options.constants, PlaneOf(copy));
      }
    }
    for (const Quantisation& each : spec_.quantisations) {
      kernels.Quantise(each.block);
      if (options.constants == nullptr) continue;
      const BlockQuantisation& block = each.block;
      const auto item = static_cast<int>(tensor::ItemBytes(block.src_dtype));
      if (each.source_digest) {
        AddPlane(*options.constants,
                 {block.src, item, block.rows, block.cols,
                  block.src_stride_bytes, item, *each.source_digest});
      }
      if (each.result_digest) {
        AddPlane(*options.constants,
                 {block.dst, 1, block.rows, block.cols, block.dst_stride_bytes,
                  1, *each.result_digest});
      }
    }
    for (const Digest& digest : spec_.digests) {
      if (options.constants != nullptr) AddPlane(*options.constants, digest);
    }
    return absl::OkStatus();
  }
  absl::Status Abort() override { return absl::OkStatus(); }
  absl::StatusOr<bool> Done() override { return true; }
  absl::Span<const DigestValue> digest_values() const override {
    return values_;
  }
  const DigestValue* device_digest_values() const override {
    return values_.data();
  }
  const cuda::ProgramInfo& info() const override { return info_; }

 private:
  static Digest PlaneOf(const Copy& copy) {
    Digest plane;
    plane.data = copy.copy.src;
    plane.item_bytes =
        static_cast<int>(tensor::ItemBytes(copy.copy.conversion.from));
    plane.place = *copy.source_digest;
    plane.cols = 1;
    const auto& modes = copy.copy.modes;
    if (modes.size() > 2) std::abort();  // the interface forbids it
    if (!modes.empty()) {
      plane.cols = modes.back().extent;
      plane.col_stride_bytes = modes.back().src_stride_bytes;
    }
    if (modes.size() == 2) {
      plane.rows = modes[0].extent;
      plane.row_stride_bytes = modes[0].src_stride_bytes;
    }
    return plane;
  }

  // Element by element: the definition.
  void AddPlane(const DigestConstants& constants, const Digest& plane) {
    const int64_t first_tile_row = plane.place.row_begin / kTileRows;
    const int64_t first_tile_col = plane.place.col_begin / kTileCols;
    for (int64_t r = 0; r < plane.rows; ++r) {
      for (int64_t c = 0; c < plane.cols; ++c) {
        const int64_t row = plane.place.row_begin + r;
        const int64_t col = plane.place.col_begin + c;
        const int64_t value =
            plane.place.first_value +
            (row / kTileRows - first_tile_row) * plane.place.values_per_row +
            (col / kTileCols - first_tile_col);
        ReferenceKernels().DigestRow(constants,
                                     plane.data + r * plane.row_stride_bytes +
                                         c * plane.col_stride_bytes,
                                     1, plane.item_bytes,
                                     static_cast<int>(row % kTileRows),
                                     static_cast<int>(col % kTileCols),
                                     values_.at(static_cast<size_t>(value)));
      }
    }
  }

  const cuda::ProgramSpec spec_;
  std::vector<DigestValue> values_;
  cuda::ProgramInfo info_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<cuda::Program>> BuildHostProgram(
    int, const cuda::ProgramSpec& spec, const cuda::ProgramOptions&) {
  return std::make_unique<HostProgram>(spec);
}

}  // namespace weft::convert::testing
