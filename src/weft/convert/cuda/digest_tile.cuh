// Tiles of the digest lattice, as warps take them.
#ifndef WEFT_CONVERT_CUDA_DIGEST_TILE_CUH_
#define WEFT_CONVERT_CUDA_DIGEST_TILE_CUH_

#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"
#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/tile_sum.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {

// What of a tile of the lattice a plane has: rows [row_begin, row_end) of the
// tile, and of each of them bytes [byte_begin, byte_end).
struct TilePart {
  const std::byte* data;  // where row 0, byte 0 of the tile would be
  std::byte* dst;         // likewise
  int row_begin;
  int row_end;
  int byte_begin;
  int byte_end;
  int64_t value;
};

__device__ __forceinline__ TilePart PartOf(const DigestOp& op,
                                           uint32_t number) {
  const int64_t down = number / op.tiles_across;
  const int64_t across = number % op.tiles_across;
  // Of the tile's first element, in the plane's coordinates.
  const int64_t row = down * kTileRows - op.place.row_phase;
  const int64_t col = across * kTileCols - op.place.col_phase;
  TilePart part;
  part.data = op.data + row * op.row_bytes + col * op.col_bytes;
  const int64_t to =
      op.converts ? ItemOf(static_cast<tensor::DType>(op.to)) : op.item;
  part.dst = op.dst + row * op.dst_row_bytes + col * to;
  part.row_begin = static_cast<int>(max(int64_t{0}, -row));
  part.row_end =
      static_cast<int>(min(static_cast<int64_t>(kTileRows), op.rows - row));
  part.byte_begin = static_cast<int>(max(int64_t{0}, -col)) * op.item;
  part.byte_end =
      static_cast<int>(min(static_cast<int64_t>(kTileCols), op.cols - col)) *
      op.item;
  part.value = op.place.first_value + down * op.place.values_per_row + across;
  return part;
}

// The tiles of the lattice that a warp does: some of each tile of the list.
class DigestWalk {
 public:
  __device__ __forceinline__ DigestWalk(const Walk& walk, const DigestOp* ops)
      : walk_(walk), ops_(ops) {
    Open();
  }
  __device__ __forceinline__ bool has() const { return walk_.has(); }
  __device__ __forceinline__ const DigestOp& op() const { return *op_; }
  __device__ __forceinline__ uint32_t index() const { return index_; }
  // Tiles from this one on that lie side by side.
  __device__ __forceinline__ uint32_t left() const { return end_ - index_; }
  __device__ __forceinline__ void Advance() {
    if (++index_ < end_) return;
    walk_.Advance();
    Open();
  }

 private:
  __device__ __forceinline__ void Open() {
    if (!walk_.has()) return;
    const Tile tile = walk_.tile();
    op_ = ops_ + tile.op;
    index_ = tile.index;
    end_ = index_ + tile.more + 1;
  }

  Walk walk_;
  const DigestOp* ops_;
  const DigestOp* op_ = nullptr;
  uint32_t index_ = 0;
  uint32_t end_ = 0;
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_DIGEST_TILE_CUH_
