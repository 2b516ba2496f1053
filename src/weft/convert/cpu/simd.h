// The inner loops of the cpu kernels, each dispatched to the best instruction
// set of this CPU. Internal to convert/cpu. All pointers of any alignment;
// source and destination never overlap.
#ifndef WEFT_CONVERT_CPU_SIMD_H_
#define WEFT_CONVERT_CPU_SIMD_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/tensor/conversion.h"

namespace weft::convert::cpu {

struct RowsCopy {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  int64_t num_rows = 0;
  int64_t row_bytes = 0;
  int64_t src_stride_bytes = 0;
  int64_t dst_stride_bytes = 0;
  // Write around the caches where rows are long or aligned enough: for copies
  // that are larger than what a later reader would find there. The caller
  // calls FlushStreams when all its copies are done.
  bool stream = false;
};
void CopyRows(const RowsCopy& rows);
void FlushStreams();

// dst[j*dst_stride + i*item] = src[i*src_stride + j*item]   (bytes)
// for 0 <= i < num_src_rows, 0 <= j < num_dst_rows.
struct PlaneTranspose {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  int64_t num_src_rows = 0;
  int64_t num_dst_rows = 0;
  int64_t src_stride_bytes = 0;
  int64_t dst_stride_bytes = 0;
  int item_bytes = 0;  // 1, 2, 4 or 8
};
void TransposePlane(const PlaneTranspose& plane);

// `count` elements, contiguous on both sides; the conversion is a cast among
// BF16, F16 and F32 and not the identity.
void CastRow(const tensor::Conversion& conversion, const std::byte* src,
             std::byte* dst, int64_t count);

// All of Kernels::Quantise.
void QuantiseBlocks(const BlockQuantisation& work);

// All of Kernels::DequantiseMxfp4.
void DequantiseMxfp4(const Mxfp4Blocks& work);
// The BF16 of the 16 codes under one scale, lower and upper bytes apart.
struct Mxfp4Table {
  uint8_t lower[16];
  uint8_t upper[16];
};

// Rows that lie within one column of tiles.
struct DigestRows {
  const std::byte* data = nullptr;
  int64_t row_stride_bytes = 0;
  int num_rows = 0;
  int row = 0;  // of the tile, of the first row
  // Bytes of each row, and where in the tile's row they start.
  int64_t row_bytes = 0;
  int64_t first_byte = 0;
};
void DigestPartialTile(const DigestConstants& constants, const DigestRows& rows,
                       DigestValue& value);
// values.size() tiles beside each other, all columns of each: row_bytes is
// that of one tile, first_byte is 0.
void DigestWholeTiles(const DigestConstants& constants, const DigestRows& rows,
                      absl::Span<DigestValue> values);

}  // namespace weft::convert::cpu

#endif  // WEFT_CONVERT_CPU_SIMD_H_
