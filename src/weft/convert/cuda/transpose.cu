// Transpositions of 2-byte elements, 8 at a time. The shared tile holds, for
// every column, chunks of 8 rows; which place a chunk takes depends on the
// column, so that neither the writes by columns nor the reads by rows meet in a
// bank. A plane with many rows is cut into tall tiles, whose columns are 512
// bytes of the source.
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

// A tile's rows and the threads that share it. Where it is tall, one group is
// the whole thread block.
template <int kRows, int kThreads>
struct Shape {
  static constexpr int kTileRows = kRows;
  static constexpr int kTileThreads = kThreads;
  static constexpr int kTileGroups = kBlockThreads / kThreads;
  static constexpr int kChunks = kRows / 8;  // of a column
  static constexpr int kColBytes = kRows * 2;
  static constexpr int kTileBytes = static_cast<int>(kWideCols) * kColBytes;
  static constexpr int kSteps = kTileBytes / 16 / kThreads;
  static constexpr int kBuffers = 2;  // one is read while the other is filled
  static constexpr int kSharedBytes = kBuffers * kTileGroups * kTileBytes;

  __device__ __forceinline__ static std::byte* PlaceOf(std::byte* shared,
                                                       int col, int chunk) {
    return shared + col * kColBytes + ((chunk ^ (col / 8)) % kChunks) * 16;
  }
  // A waiting point of the tile's threads, and whether any of them says so.
  __device__ __forceinline__ static bool Any(bool mine) {
    if constexpr (kTileGroups == 1) return __syncthreads_or(mine) != 0;
    return GroupAny(mine);
  }
};
using LowShape = Shape<static_cast<int>(kTransposeSide), kGroupThreads>;
using TallShape = Shape<static_cast<int>(kTallRows), kBlockThreads>;

template <typename S>
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
    for (int i = 0; i < S::kSteps; ++i) {
      const int number = thread + i * S::kTileThreads;
      const int chunk = number % S::kChunks;
      const int col = number / S::kChunks;
      if (chunk * 8 < plane.rows && col < plane.cols) {
        StartLoad(S::PlaceOf(shared, col, chunk),
                  plane.src + chunk * 16 + col * src_col_bytes);
      }
    }
  }
};

// Kept in the cache until the line's other half is there, too.
__device__ __forceinline__ void StoreRow(std::byte* dst, const uint4& data) {
  *reinterpret_cast<uint4*>(dst) = data;
}

template <typename S>
__device__ __forceinline__ void StoreRows(const WideTile<S>& tile, int thread,
                                          std::byte* shared) {
  // Two rows and 8 columns a thread.
  constexpr int kColChunks = kWideCols / 8;
  constexpr int kPairs = S::kTileRows / 2;
#pragma unroll
  for (int i = 0; i < kPairs * kColChunks / S::kTileThreads; ++i) {
    const int number = thread + i * S::kTileThreads;
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
          S::PlaceOf(shared, cols + j, row / 8) + row % 8 * 2);
    }
    if (row >= tile.plane.rows || cols >= tile.plane.cols) continue;
    std::byte* const dst = tile.plane.dst + row * tile.dst_row_bytes + cols * 2;
    StoreRow(dst, {__byte_perm(words[0], words[1], 0x5410),
                   __byte_perm(words[2], words[3], 0x5410),
                   __byte_perm(words[4], words[5], 0x5410),
                   __byte_perm(words[6], words[7], 0x5410)});
    StoreRow(dst + tile.dst_row_bytes,
             {__byte_perm(words[0], words[1], 0x7632),
              __byte_perm(words[2], words[3], 0x7632),
              __byte_perm(words[4], words[5], 0x7632),
              __byte_perm(words[6], words[7], 0x7632)});
  }
}

template <typename S>
__global__ void __launch_bounds__(kBlockThreads, 1)
    WideKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
               const MoveOp* ops) {
  extern __shared__ uint4 dynamic[];
  auto* const all = reinterpret_cast<std::byte*>(dynamic);
  const unsigned group = threadIdx.x / S::kTileThreads;
  std::byte* const shared = all + group * (S::kBuffers * S::kTileBytes);
  const int thread = static_cast<int>(threadIdx.x % S::kTileThreads);
  Walk walk(tiles, count, stop, S::kTileGroups, group);
  if (!walk.has()) return;
  Tile tile = walk.tile();
  WideTile<S> next(ops[tile.op], tile.index);
  next.Start(shared, thread);
  for (int buffer = 0; walk.has(); buffer ^= 1) {
    const WideTile<S> now = next;
    const bool stopped = walk.Stopped();
    walk.Advance();
    if (walk.has()) {
      tile = walk.tile();
      next = WideTile<S>(ops[tile.op], tile.index);
    }
    WaitForLoads();
    // All have loaded this tile, and left the one before it.
    const bool stop_now = S::Any(stopped);
    if (walk.has() && !stop_now) {
      next.Start(shared + (buffer ^ 1) * S::kTileBytes, thread);
    }
    StoreRows(now, thread, shared + buffer * S::kTileBytes);
    if (stop_now) break;
  }
}

template <typename S>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(WideKernel<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              S::kSharedBytes);
}

template <typename S>
cudaError_t Launch(const Grid& grid, const TileList& list, const MoveOp* ops) {
  WideKernel<S>
      <<<BlocksFor(grid, list, S::kTileGroups), kBlockThreads, S::kSharedBytes,
         grid.stream>>>(list.tiles, list.count, grid.stop, ops);
  return cudaGetLastError();
}

}  // namespace

cudaError_t PrepareWide() {
  const cudaError_t error = Prepare<LowShape>();
  return error != cudaSuccess ? error : Prepare<TallShape>();
}

cudaError_t LaunchWide(const Grid& grid, const TileList& list, bool tall,
                       const MoveOp* ops) {
  return tall ? Launch<TallShape>(grid, list, ops)
              : Launch<LowShape>(grid, list, ops);
}

}  // namespace weft::convert::cuda
