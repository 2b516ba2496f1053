// Transpositions of 2-byte elements, 8 at a time. The shared tile holds, for
// every column, 8 chunks of 8 rows; which place a chunk takes depends on the
// column, so that neither the writes by columns nor the reads by rows meet in a
// bank.
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

constexpr int kChunks = static_cast<int>(kTransposeSide) / 8;  // of a column
constexpr int kColBytes = static_cast<int>(kTransposeSide) * 2;
constexpr int kTileBytes = static_cast<int>(kWideCols) * kColBytes;
constexpr int kSteps = kTileBytes / 16 / kGroupThreads;
constexpr int kBuffers = 2;  // one is read while the other is filled
constexpr int kSharedBytes = kBuffers * kGroups * kTileBytes;

__device__ __forceinline__ std::byte* PlaceOf(std::byte* shared, int col,
                                              int chunk) {
  return shared + col * kColBytes + ((chunk ^ (col / 8)) % kChunks) * 16;
}

struct WideTile {
  Plane plane;
  int64_t src_col_bytes;
  int64_t dst_row_bytes;

  __device__ __forceinline__ WideTile(const MoveOp& op, uint32_t index)
      : plane(PlaneOf(op, index)),
        src_col_bytes(op.src_col_bytes),
        dst_row_bytes(op.dst_row_bytes) {}

  __device__ __forceinline__ void Start(std::byte* shared, int thread) const {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int number = thread + i * kGroupThreads;
      const int chunk = number % kChunks;
      const int col = number / kChunks;
      if (chunk * 8 < plane.rows && col < plane.cols) {
        StartLoad(PlaceOf(shared, col, chunk),
                  plane.src + chunk * 16 + col * src_col_bytes);
      }
    }
  }
};

__device__ __forceinline__ void StoreRows(const WideTile& tile, int thread,
                                          std::byte* shared) {
  // Two rows and 8 columns a thread.
  constexpr int kColChunks = kWideCols / 8;
  constexpr int kPairs = kTransposeSide / 2;
#pragma unroll
  for (int i = 0; i < kPairs * kColChunks / kGroupThreads; ++i) {
    const int number = thread + i * kGroupThreads;
    // Lanes: 4 pairs of rows by 8 chunks of columns.
    const int within = number % 32;
    const int group = number / 32;
    const int cols = (within % 8 + 8 * (group % (kColChunks / 8))) * 8;
    const int pair = within / 8 + 4 * (group / (kColChunks / 8));
    const int row = pair * 2;
    uint32_t words[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      words[j] = *reinterpret_cast<const uint32_t*>(
          PlaceOf(shared, cols + j, row / 8) + row % 8 * 2);
    }
    if (row >= tile.plane.rows || cols >= tile.plane.cols) continue;
    std::byte* const dst = tile.plane.dst + row * tile.dst_row_bytes + cols * 2;
    Store16(dst, {__byte_perm(words[0], words[1], 0x5410),
                  __byte_perm(words[2], words[3], 0x5410),
                  __byte_perm(words[4], words[5], 0x5410),
                  __byte_perm(words[6], words[7], 0x5410)});
    Store16(dst + tile.dst_row_bytes,
            {__byte_perm(words[0], words[1], 0x7632),
             __byte_perm(words[2], words[3], 0x7632),
             __byte_perm(words[4], words[5], 0x7632),
             __byte_perm(words[6], words[7], 0x7632)});
  }
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    WideKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
               const MoveOp* ops) {
  extern __shared__ uint4 dynamic[];
  auto* const all = reinterpret_cast<std::byte*>(dynamic);
  std::byte* const shared =
      all + threadIdx.x / kGroupThreads * (kBuffers * kTileBytes);
  const int thread = GroupThread();
  Walk walk = Walk::OfGroup(tiles, count, stop);
  if (!walk.has()) return;
  Tile tile = walk.tile();
  WideTile next(ops[tile.op], tile.index);
  next.Start(shared, thread);
  for (int buffer = 0; walk.has(); buffer ^= 1) {
    const WideTile now = next;
    const bool stopped = walk.Stopped();
    walk.Advance();
    if (walk.has()) {
      tile = walk.tile();
      next = WideTile(ops[tile.op], tile.index);
    }
    WaitForLoads();
    // All have loaded this tile, and left the one before it.
    const bool stop_now = GroupAny(stopped);
    if (walk.has() && !stop_now) {
      next.Start(shared + (buffer ^ 1) * kTileBytes, thread);
    }
    StoreRows(now, thread, shared + buffer * kTileBytes);
    if (stop_now) break;
  }
}

}  // namespace

cudaError_t PrepareWide() {
  return cudaFuncSetAttribute(
      WideKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

cudaError_t LaunchWide(const Grid& grid, const TileList& list,
                       const MoveOp* ops) {
  WideKernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, kSharedBytes,
               grid.stream>>>(list.tiles, list.count, grid.stop, ops);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
