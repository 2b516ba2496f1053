#include <algorithm>
#include <cstdlib>

#include "gtest/gtest.h"
#include "weft/convert/cuda/testing/runner.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::convert::cuda::testing {
namespace {

// What a strided access from `data` on touches.
class Span {
 public:
  explicit Span(int64_t item) : end_(item) {}
  void Add(int64_t extent, int64_t stride) {
    if (extent == 0) empty_ = true;
    (stride < 0 ? begin_ : end_) += (extent - 1) * stride;
  }
  Memory From(const std::byte* data, bool written) const {
    if (empty_) return {};
    return {const_cast<std::byte*>(data) + begin_, end_ - begin_, written};
  }

 private:
  int64_t begin_ = 0;
  int64_t end_;
  bool empty_ = false;
};

Memory RowsOf(const std::byte* data, int64_t rows, int64_t stride,
              int64_t row_bytes, bool written) {
  Span span(row_bytes);
  span.Add(rows, stride);
  return span.From(data, written);
}

}  // namespace

void RunnerKernels::Copy(const StridedCopy& copy) const {
  Span src(tensor::ItemBytes(copy.conversion.from));
  Span dst(tensor::ItemBytes(copy.conversion.to));
  for (const CopyMode& mode : copy.modes) {
    src.Add(mode.extent, mode.src_stride_bytes);
    dst.Add(mode.extent, mode.dst_stride_bytes);
  }
  ProgramSpec spec;
  spec.copies.push_back({copy, {}});
  const Memory memories[] = {src.From(copy.src, false),
                             dst.From(copy.dst, true)};
  const auto result = runner_.Run({spec, memories, nullptr, options_});
  ASSERT_TRUE(result.ok()) << result.status();
}

void RunnerKernels::Quantise(const BlockQuantisation& work) const {
  ProgramSpec spec;
  spec.quantisations.push_back({work, sizeof(float), {}, {}});
  const int64_t item = tensor::ItemBytes(work.src_dtype);
  const auto blocks = [](int64_t all, int64_t each) {
    return (all + each - 1) / each;
  };
  const bool empty = work.rows == 0 || work.cols == 0;
  const Memory memories[] = {
      RowsOf(work.src, work.rows, work.src_stride_bytes, work.cols * item,
             false),
      RowsOf(work.dst, work.rows, work.dst_stride_bytes, work.cols, true),
      RowsOf(work.scales, empty ? 0 : blocks(work.rows, work.block_rows),
             work.scales_stride_bytes, blocks(work.cols, work.block_cols) * 4,
             true)};
  const auto result = runner_.Run({spec, memories, nullptr, options_});
  ASSERT_TRUE(result.ok()) << result.status();
}

void RunnerKernels::DequantiseMxfp4(const Mxfp4Blocks& work) const {
  ReferenceKernels().DequantiseMxfp4(work);
}

void RunnerKernels::DigestRow(const DigestConstants& constants,
                              const std::byte* data, int64_t num_elements,
                              int item_bytes, int row, int col,
                              DigestValue& value) const {
  DigestBand(constants, data, 0, 1, num_elements, item_bytes, row, col,
             absl::MakeSpan(&value, 1));
}

void RunnerKernels::DigestBand(const DigestConstants& constants,
                               const std::byte* data, int64_t row_stride_bytes,
                               int num_rows, int64_t num_cols, int item_bytes,
                               int row, int col,
                               absl::Span<DigestValue> values) const {
  ProgramSpec spec;
  spec.num_values = static_cast<int64_t>(values.size());
  spec.digests.push_back({data,
                          item_bytes,
                          num_rows,
                          num_cols,
                          row_stride_bytes,
                          item_bytes,
                          {row, col, 0, 0}});
  const Memory memories[] = {RowsOf(data, num_cols == 0 ? 0 : num_rows,
                                    row_stride_bytes, num_cols * item_bytes,
                                    false)};
  const auto result = runner_.Run({spec, memories, &constants, options_});
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t i = 0; i < values.size(); ++i) values[i] += (*result)[i];
}

}  // namespace weft::convert::cuda::testing
