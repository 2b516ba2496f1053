// The part of a copy's plane that a tile is.
#ifndef WEFT_CONVERT_CUDA_PLANE_CUH_
#define WEFT_CONVERT_CUDA_PLANE_CUH_

#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"

namespace weft::convert::cuda {

struct Plane {
  const std::byte* src;  // of its first element
  std::byte* dst;
  uint32_t rows;
  uint32_t cols;
};

__device__ __forceinline__ Plane PlaneOf(const MoveOp& op, uint32_t index) {
  int64_t row = 0;
  int64_t col = 0;
  Plane plane{op.src, op.dst, 0, 0};
  if (op.col_tiles > 1) {
    col = static_cast<int64_t>(index % op.col_tiles) * op.tile_cols;
    index /= op.col_tiles;
  }
  const auto inner = static_cast<uint32_t>(op.outer_extent[0]);
  if (inner > 1) {
    const uint32_t outer = index / op.row_tiles;
    index -= outer * op.row_tiles;
    const int64_t digit0 = outer % inner;
    const int64_t digit1 = outer / inner;
    plane.src +=
        digit0 * op.outer_src_bytes[0] + digit1 * op.outer_src_bytes[1];
    plane.dst +=
        digit0 * op.outer_dst_bytes[0] + digit1 * op.outer_dst_bytes[1];
  }
  row = static_cast<int64_t>(index) * op.tile_rows;
  const bool bytes = op.kind == MoveKind::kRows;
  plane.src += row * op.src_row_bytes + col * (bytes ? 1 : op.src_col_bytes);
  plane.dst += row * op.dst_row_bytes + col * (bytes ? 1 : op.dst_col_bytes);
  plane.rows = static_cast<uint32_t>(
      min(static_cast<int64_t>(op.tile_rows), op.rows - row));
  plane.cols = static_cast<uint32_t>(
      min(static_cast<int64_t>(op.tile_cols), op.cols - col));
  return plane;
}

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_PLANE_CUH_
