// Rows of whole 16-byte chunks.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/plane.cuh"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/stage.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

// Rows that are made of 16-byte chunks at multiples of 16: one chunk a slot.
struct WideRows {
  const std::byte* src;
  std::byte* dst;
  int64_t src_row_bytes;
  int64_t dst_row_bytes;
  uint32_t total;  // chunks
  SmallDivisor across;

  __device__ __forceinline__ WideRows(const MoveOp& op, uint32_t index) {
    const Plane plane = PlaneOf(op, index);
    src = plane.src;
    dst = plane.dst;
    src_row_bytes = op.src_row_bytes;
    dst_row_bytes = op.dst_row_bytes;
    across = SmallDivisor(plane.cols / 16);
    total = plane.rows * across.divisor;
  }

  __device__ __forceinline__ int64_t Offset(uint32_t number,
                                            int64_t row_bytes) const {
    const uint32_t row = across.Quotient(number);
    return row * row_bytes + (number - row * across.divisor) * 16;
  }
  __device__ __forceinline__ void Start(const Stage& stage, int thread,
                                        int slot) const {
    const uint32_t number = thread + slot * kGroupThreads;
    if (number < total) stage.Start(slot, src + Offset(number, src_row_bytes));
  }
  __device__ __forceinline__ void Store(const uint4& data, int thread,
                                        int slot) const {
    const uint32_t number = thread + slot * kGroupThreads;
    if (number < total) Store16(dst + Offset(number, dst_row_bytes), data);
  }
};

__global__ void __launch_bounds__(kBlockThreads, 1)
    RowsKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
               const MoveOp* ops) {
  extern __shared__ uint4 dynamic[];
  const Stage stage(reinterpret_cast<std::byte*>(dynamic));
  const int thread = GroupThread();
  Walk walk = Walk::OfGroup(tiles, count, stop);
  if (!walk.has()) return;
  const auto rows_of = [&](const Tile& tile) {
    return WideRows(ops[tile.op], tile.index);
  };
  WideRows next = rows_of(walk.tile());
#pragma unroll
  for (int i = 0; i < kSlots; ++i) next.Start(stage, thread, i);
  while (walk.has()) {
    const WideRows rows = next;
    const bool stopped = walk.Stopped();
    walk.Advance();
    next.total = 0;
    if (walk.has()) next = rows_of(walk.tile());
    stage.Wait();
#pragma unroll
    for (int i = 0; i < kSlots; i += kTaken) {
      uint4 data[kTaken];
#pragma unroll
      for (int j = 0; j < kTaken; ++j) data[j] = stage.Take(i + j);
#pragma unroll
      for (int j = 0; j < kTaken; ++j) next.Start(stage, thread, i + j);
#pragma unroll
      for (int j = 0; j < kTaken; ++j) rows.Store(data[j], thread, i + j);
    }
    // No thread waits for another here: each may stop when it sees fit.
    if (stopped) break;
  }
  stage.Wait();
}

}  // namespace

cudaError_t PrepareRows() {
  return cudaFuncSetAttribute(
      RowsKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kStageBytes);
}

cudaError_t LaunchRows(const Grid& grid, const TileList& list,
                       const MoveOp* ops) {
  RowsKernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, kStageBytes,
               grid.stream>>>(list.tiles, list.count, grid.stop, ops);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
