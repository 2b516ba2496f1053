// Quantisation of blocks that are too large for one group, or not aligned: cut
// into chunks and read twice, for the maximum and for the elements.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/quantise.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

// A chunk of a block that is too large for one group.
struct ChunkOf {
  int64_t block;
  bool first;  // of its block
  int64_t row;
  int64_t col;
  int64_t rows;
  int64_t cols;

  __device__ __forceinline__ ChunkOf(const QuantiseOp& op, uint32_t index) {
    const uint32_t across = index % op.chunks_across;
    index /= op.chunks_across;
    const uint32_t down = index % op.chunks_down;
    block = index / op.chunks_down;
    first = across == 0 && down == 0;
    const int64_t block_row = block / op.blocks_across * op.block_rows;
    const int64_t block_col = block % op.blocks_across * op.block_cols;
    row = block_row + down * op.chunk_rows;
    col = block_col + across * op.chunk_cols;
    rows = min(op.chunk_rows, min(block_row + op.block_rows, op.rows) - row);
    cols = min(op.chunk_cols, min(block_col + op.block_cols, op.cols) - col);
  }
};

// Whether chunks of 8 elements of 2 bytes can be loaded and stored at once.
__device__ __forceinline__ bool HasVectors(const QuantiseOp& op,
                                           const ChunkOf& chunk) {
  const uint64_t src = reinterpret_cast<uintptr_t>(op.src) |
                       static_cast<uint64_t>(op.src_row_bytes);
  const uint64_t dst = reinterpret_cast<uintptr_t>(op.dst) |
                       static_cast<uint64_t>(op.dst_row_bytes);
  return ItemOf(static_cast<DType>(op.from)) == 2 && src % 16 == 0 &&
         dst % 8 == 0 && chunk.col % kChunk == 0;
}

// Calls visit(row, col) for the chunk's elements, `step` columns at a time, in
// the coordinates of the matrix.
template <typename Visit>
__device__ __forceinline__ void ForEach(const ChunkOf& chunk, int step,
                                        int thread, const Visit& visit) {
  const auto across = static_cast<uint32_t>((chunk.cols + step - 1) / step);
  const auto total =
      static_cast<uint32_t>(max(chunk.rows, int64_t{0})) * across;
  const SmallDivisor divide(max(across, 1u));
  for (uint32_t number = thread; number < total; number += kGroupThreads) {
    const uint32_t row = divide.Quotient(number);
    visit(chunk.row + row,
          chunk.col + static_cast<int64_t>(number - row * across) * step);
  }
}

__device__ __forceinline__ uint32_t ElementBits(const QuantiseOp& op,
                                                int64_t row, int64_t col) {
  const auto from = static_cast<DType>(op.from);
  const int item = ItemOf(from);
  const std::byte* const src = op.src + row * op.src_row_bytes + col * item;
  return ToBits(
      from, static_cast<uint32_t>(LoadItem(src, item, IsAligned(src, item))));
}

// Calls `work(tile, thread of the group)` for the tiles of this group.
template <typename Work>
__device__ __forceinline__ void WalkGroup(const Tile* tiles, uint32_t count,
                                          const uint32_t* stop,
                                          const Work& work) {
  for (Walk walk = Walk::OfGroup(tiles, count, stop); walk.has();
       walk.Advance()) {
    work(walk.tile(), GroupThread());
    if (GroupAny(walk.Stopped())) break;
  }
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    MaximaKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                 const QuantiseOp* ops, uint32_t* amax) {
  __shared__ uint32_t maxima[kGroups][kGroupThreads / 32];
  const unsigned group = threadIdx.x / kGroupThreads;
  WalkGroup(tiles, count, stop, [&](const Tile& tile, int thread) {
    const QuantiseOp& op = ops[tile.op];
    const ChunkOf chunk(op, tile.index);
    uint32_t most = 0;
    if (HasVectors(op, chunk)) {
      uint32_t pair = 0;
      ForEach(chunk, kChunk, thread, [&](int64_t row, int64_t col) {
        pair = MaxMagnitude(
            LoadChunk(op.src + row * op.src_row_bytes + col * 2,
                      static_cast<int>(chunk.col + chunk.cols - col)),
            pair);
      });
      most =
          ToBits(static_cast<DType>(op.from), max(pair & 0xffffu, pair >> 16));
    } else {
      ForEach(chunk, 1, thread, [&](int64_t row, int64_t col) {
        most = max(most, ElementBits(op, row, col) & kMagnitudeBits);
      });
    }
    most = GroupMax(most, thread, maxima[group]);
    if (thread == 0) atomicMax(amax + op.first_amax + chunk.block, most);
  });
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    ChunkKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                const QuantiseOp* ops, const uint32_t* amax) {
  WalkGroup(tiles, count, stop, [&](const Tile& tile, int thread) {
    const QuantiseOp& op = ops[tile.op];
    const ChunkOf chunk(op, tile.index);
    const uint32_t most = amax[op.first_amax + chunk.block];
    const float scale = ScaleOf(most, op.power_of_two);
    const float inverse = __fdiv_rn(1.0f, scale);
    const bool special = most >= kInfinityBits;
    if (thread == 0 && chunk.first) {
      std::byte* const at =
          op.scales + chunk.block / op.blocks_across * op.scale_row_bytes +
          chunk.block % op.blocks_across * op.scale_col_bytes;
      StoreItem(at, 4, IsAligned(at, 4), __float_as_uint(scale));
    }
    if (HasVectors(op, chunk)) {
      ForEach(chunk, kChunk, thread, [&](int64_t row, int64_t col) {
        const int left = static_cast<int>(chunk.col + chunk.cols - col);
        const uint4 data =
            LoadChunk(op.src + row * op.src_row_bytes + col * 2, left);
        StoreChunk(
            op.dst + row * op.dst_row_bytes + col,
            QuantiseChunk(static_cast<DType>(op.from), data, inverse, special),
            left);
      });
      return;
    }
    ForEach(chunk, 1, thread, [&](int64_t row, int64_t col) {
      op.dst[row * op.dst_row_bytes + col] = static_cast<std::byte>(
          QuantisePair(ElementBits(op, row, col), 0, inverse, special));
    });
  });
}

}  // namespace

cudaError_t LaunchMaxima(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, uint32_t* amax) {
  MaximaKernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, 0,
                 grid.stream>>>(list.tiles, list.count, grid.stop, ops, amax);
  return cudaGetLastError();
}

cudaError_t LaunchChunks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const uint32_t* amax) {
  ChunkKernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, 0,
                grid.stream>>>(list.tiles, list.count, grid.stop, ops, amax);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
