// Kernels of one host: strided copy, cast, quantisation by blocks, and the
// digest arithmetic. The
// interface is a table of functions; `reference` is slow and obvious, `cpu`
// uses Highway with run-time dispatch. Both pass convert/testing's suite.
#ifndef WEFT_CONVERT_KERNEL_H_
#define WEFT_CONVERT_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "weft/tensor/conversion.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::convert {

// A strided N-d copy in bytes, with an element conversion. Digits outermost
// first; the innermost has `count` elements with byte strides that equal the
// item sizes when contiguous.
struct CopyMode {
  int64_t extent = 1;
  int64_t src_stride_bytes = 0;
  int64_t dst_stride_bytes = 0;
};

struct StridedCopy {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  absl::InlinedVector<CopyMode, 4> modes;  // outermost first; empty = 1 element
  tensor::Conversion conversion;
};

// A matrix of BF16, F16 or F32 to be stored as E4M3 and a scale for every block
// of it (tensor::ScaleScheme, its block sizes resolved):
//
//   amax  = the largest |x| of the block, in f32
//   scale = max(amax, 1e-4) * fl32(1/448), under kPowerOfTwo rounded up to a
//           power of two: what CUDA computes, whose division by a constant is
//           a multiplication
//   q     = x * (1/scale), both operations in f32, rounded to nearest even;
//           finite values beyond 448 become +-448; -0 stays -0
//
// A block at the right or bottom edge ends with the matrix: padding with zeros
// would change nothing. What is not finite shows: an infinity makes its block's
// scale infinite, and thereby the finite elements zero and the infinite ones
// NaN; a NaN makes the scale (0x7fc00000) and every element NaN. Under both
// rules. Elements keep their sign, NaN too (0x7f, 0xff).
struct BlockQuantisation {
  const std::byte* src = nullptr;
  tensor::DType src_dtype = tensor::DType::kBF16;
  int64_t src_stride_bytes = 0;  // from row to row; columns are contiguous
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t block_rows = 128;  // at least 1
  int64_t block_cols = 128;
  tensor::ScaleRule rule = tensor::ScaleRule::kFloat;
  std::byte* dst = nullptr;
  int64_t dst_stride_bytes = 0;
  std::byte* scales = nullptr;  // f32, a row for every row of blocks
  int64_t scales_stride_bytes = 0;
};

// MXFP4 as GPT-OSS checkpoints hold it (`*_blocks` u8 [..., n, 16], `*_scales`
// u8 [..., n]): a block is 32 elements of E2M1, two a byte with the lower half
// first, and a scale 2^(s - 127). Becomes BF16 [..., 32 n] without rounding;
// what is too large (s >= 253 only) becomes infinity.
struct Mxfp4Blocks {
  const std::byte* blocks = nullptr;
  const std::byte* scales = nullptr;
  int64_t num_blocks = 0;
  std::byte* dst = nullptr;
};

// The additive digest of tiles: see convert/digest.h for the definition.
struct DigestConstants;
struct DigestValue;

class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual std::string_view name() const = 0;

  // Performs the copy. The ranges must not overlap. Any alignment. Casts
  // round to nearest even; NaN stays NaN (quiet, sign and high payload bits
  // kept); f32 beyond the bf16/f16 range becomes infinity, as torch's .to().
  // A transform is computed in f32 between a cast to and one from it
  // (convert/transform.h). F32 -> F8_E8M0: bits 23 to 30.
  // The conversion must be supported (tensor::CheckSupported).
  virtual void Copy(const StridedCopy& copy) const = 0;

  // Writes the elements and the scales. src overlaps neither of them. Any
  // alignment.
  virtual void Quantise(const BlockQuantisation& work) const = 0;

  // Any alignment; dst overlaps nothing.
  virtual void DequantiseMxfp4(const Mxfp4Blocks& work) const = 0;

  // Adds to `value` the digest of `num_elements` contiguous elements of
  // `item_bytes` at `data`, which lie in one row of one tile: row `row` and
  // columns [col, col+num_elements) of the tile (convert/digest.h).
  virtual void DigestRow(const DigestConstants& constants,
                         const std::byte* data, int64_t num_elements,
                         int item_bytes, int row, int col,
                         DigestValue& value) const = 0;

  // The same for whole rows of many tiles: `num_rows` rows of `num_cols`
  // elements, row r at data + r*row_stride_bytes, that start at row `row` and
  // column `col` of a tile and continue into the tiles to the right; all rows
  // lie in one band of tiles (row + num_rows <= tensor::kTileRows). values[t]
  // belongs to the t-th tile touched. This is the fast path: memory bandwidth.
  virtual void DigestBand(const DigestConstants& constants,
                          const std::byte* data, int64_t row_stride_bytes,
                          int num_rows, int64_t num_cols, int item_bytes,
                          int row, int col,
                          absl::Span<DigestValue> values) const = 0;
};

// Element by element; the oracle.
const Kernels& ReferenceKernels();
// SIMD, best instruction set of this CPU.
const Kernels& CpuKernels();

}  // namespace weft::convert

#endif  // WEFT_CONVERT_KERNEL_H_
