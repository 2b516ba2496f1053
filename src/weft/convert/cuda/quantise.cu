// Quantisation by blocks. A block that fits is held in the registers of a
// group: its source, which may be a peer's memory, is read once. Larger ones
// are cut into chunks and read twice, for the maximum and for the elements.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/tile_sum.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

constexpr int kThreadChunks = kBlockChunks / kGroupThreads;
constexpr int kChunk = static_cast<int>(kChunkElements);

// The block, or the part of it, that a tile is.
struct Region {
  int64_t row;
  int64_t col;
  int rows;
  int cols;
};

__device__ __forceinline__ Region BlockOf(const QuantiseOp& op,
                                          int64_t number) {
  Region block;
  block.row = number / op.blocks_across * op.block_rows;
  block.col = number % op.blocks_across * op.block_cols;
  // May be larger than int for a block that is the whole matrix: chunks use
  // Clip instead.
  block.rows = static_cast<int>(min(op.block_rows, op.rows - block.row));
  block.cols = static_cast<int>(min(op.block_cols, op.cols - block.col));
  return block;
}

// The largest `value` of the group's threads.
__device__ __forceinline__ uint32_t GroupMax(uint32_t value, int thread,
                                             uint32_t* shared) {
  value = __reduce_max_sync(~0u, value);
  if (thread % 32 == 0) shared[thread / 32] = value;
  GroupSync();
  value = shared[0];
#pragma unroll
  for (int i = 1; i < kGroupThreads / 32; ++i) value = max(value, shared[i]);
  return value;
}

// 8 elements of 2 bytes; those beyond `count` are zero.
__device__ __forceinline__ uint4 LoadChunk(const std::byte* src, int count) {
  if (count >= kChunk) return Load16(src);
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) {
      words[i / 2] |=
          static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(src)[i])
          << (16 * (i % 2));
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ void StoreChunk(std::byte* dst, const uint2& codes,
                                           int count) {
  if (count >= kChunk) {
    __stcs(reinterpret_cast<uint2*>(dst), codes);
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) {
      dst[i] =
          static_cast<std::byte>((i < 4 ? codes.x : codes.y) >> (8 * (i % 4)));
    }
  }
}

__device__ __forceinline__ uint32_t QuantiseWord(DType from, uint32_t word,
                                                 float inverse, bool special) {
  if (from == DType::kBF16) {
    return QuantisePair(word << 16, word & 0xffff0000u, inverse, special);
  }
  return QuantisePair(F16ToBits(word & 0xffffu), F16ToBits(word >> 16), inverse,
                      special);
}

__device__ __forceinline__ uint2 QuantiseChunk(DType from, const uint4& data,
                                               float inverse, bool special) {
  return {QuantiseWord(from, data.x, inverse, special) |
              QuantiseWord(from, data.y, inverse, special) << 16,
          QuantiseWord(from, data.z, inverse, special) |
              QuantiseWord(from, data.w, inverse, special) << 16};
}

// Largest magnitude of 2-byte floats, as the bits of one: their order is that
// of unsigned numbers, NaN above infinity.
__device__ __forceinline__ uint32_t MaxMagnitude(const uint4& data,
                                                 uint32_t pair) {
  pair = __vmaxu2(pair, data.x & 0x7fff7fffu);
  pair = __vmaxu2(pair, data.y & 0x7fff7fffu);
  pair = __vmaxu2(pair, data.z & 0x7fff7fffu);
  return __vmaxu2(pair, data.w & 0x7fff7fffu);
}

// The value of the tile that element (row, col) of the plane lies in.
__device__ __forceinline__ int64_t ValueOf(const Place& place, int64_t row,
                                           int64_t col) {
  return place.first_value +
         (place.row_phase + row) / kTileRows * place.values_per_row +
         (place.col_phase + col) / kTileCols;
}

// Sums of a thread over chunks that come tile after tile.
struct RunningSum {
  TileSum sum;
  int64_t tile = -1;

  // All lanes of a warp together; `next` is -1 for a lane without a chunk.
  __device__ __forceinline__ void MoveTo(DigestValue* values, int64_t next) {
    const bool leaves = tile >= 0 && next >= 0 && next != tile;
    if (__any_sync(~0u, leaves)) {
      Flush(values, tile, sum);
      sum = TileSum{};
    }
    if (next >= 0) tile = next;
  }
};

template <bool kDigests>
__device__ __forceinline__ void QuantiseBlock(const QuantiseOp& op,
                                              int64_t number, int thread,
                                              uint32_t* shared,
                                              const DigestWeights& weights,
                                              DigestValue* values) {
  const Region block = BlockOf(op, number);
  const auto from = static_cast<DType>(op.from);
  const std::byte* const src =
      op.src + block.row * op.src_row_bytes + block.col * 2;
  const uint32_t across = (block.cols + kChunk - 1) / kChunk;
  const uint32_t total = block.rows * across;
  const SmallDivisor divide(across);
  uint4 data[kThreadChunks];
  uint32_t pair = 0;
#pragma unroll
  for (int i = 0; i < kThreadChunks; ++i) {
    const uint32_t chunk = thread + i * kGroupThreads;
    data[i] = {0, 0, 0, 0};
    if (chunk < total) {
      const uint32_t row = divide.Quotient(chunk);
      const int col = static_cast<int>(chunk - row * across) * kChunk;
      data[i] =
          LoadChunk(src + row * op.src_row_bytes + col * 2, block.cols - col);
    }
  }
#pragma unroll
  for (int i = 0; i < kThreadChunks; ++i) pair = MaxMagnitude(data[i], pair);
  const uint32_t half =
      GroupMax(max(pair & 0xffffu, pair >> 16), thread, shared);
  const uint32_t amax = ToBits(from, half);
  const float scale = ScaleOf(amax, op.power_of_two);
  const float inverse = __fdiv_rn(1.0f, scale);
  const bool special = amax >= kInfinityBits;
  if (thread == 0) {
    const int64_t row = number / op.blocks_across;
    const int64_t col = number % op.blocks_across;
    StoreItem(op.scales + row * op.scale_row_bytes + col * op.scale_col_bytes,
              4,
              IsAligned(op.scales, 4) &&
                  (op.scale_row_bytes | op.scale_col_bytes) % 4 == 0,
              __float_as_uint(scale));
  }
  std::byte* const dst = op.dst + block.row * op.dst_row_bytes + block.col;
  RunningSum source;
  RunningSum result;
#pragma unroll
  for (int i = 0; i < kThreadChunks; ++i) {
    const uint32_t chunk = thread + i * kGroupThreads;
    const bool present = chunk < total;
    const uint32_t row = divide.Quotient(present ? chunk : 0);
    const int col =
        static_cast<int>((present ? chunk : 0) - row * across) * kChunk;
    const uint2 codes = QuantiseChunk(from, data[i], inverse, special);
    if (present) {
      StoreChunk(dst + row * op.dst_row_bytes + col, codes, block.cols - col);
    }
    if constexpr (kDigests) {
      const int64_t plane_row = block.row + row;
      const int64_t plane_col = block.col + col;
      if (op.source_place.first_value >= 0) {
        source.MoveTo(
            values,
            present ? ValueOf(op.source_place, plane_row, plane_col) : -1);
        const int place_col = static_cast<int>(
            (op.source_place.col_phase + plane_col) % kTileCols);
        if (present) {
          source.sum.Add4(
              weights, data[i],
              static_cast<int>((op.source_place.row_phase + plane_row) %
                               kTileRows),
              place_col / 2);
        }
      }
      if (op.result_place.first_value >= 0) {
        result.MoveTo(
            values,
            present ? ValueOf(op.result_place, plane_row, plane_col) : -1);
        const int place_col = static_cast<int>(
            (op.result_place.col_phase + plane_col) % kTileCols);
        const int count = block.cols - col;
        uint2 seen = codes;
        // Beyond the matrix's end there is nothing, not a zero's code.
        if (count < 4) seen.x &= (1u << (8 * count)) - 1;
        if (count <= 4) {
          seen.y = 0;
        } else if (count < kChunk) {
          seen.y &= (1u << (8 * (count - 4))) - 1;
        }
        if (present) {
          result.sum.Add2(
              weights, seen,
              static_cast<int>((op.result_place.row_phase + plane_row) %
                               kTileRows),
              place_col / 4);
        }
      }
    }
  }
  if constexpr (kDigests) {
    if (op.source_place.first_value >= 0) {
      Flush(values, source.tile, source.sum);
    }
    if (op.result_place.first_value >= 0) {
      Flush(values, result.tile, result.sum);
    }
  }
}

template <bool kDigests>
__global__ void __launch_bounds__(kBlockThreads, 1)
    BlockKernel(const Tile* tiles, uint32_t count, uint32_t* counter,
                const QuantiseOp* ops,
                const __grid_constant__ DigestWeights parameter,
                DigestValue* values) {
  __shared__ alignas(16) DigestWeights weights;
  __shared__ uint32_t slots[kGroups];
  __shared__ uint32_t maxima[kGroups][kGroupThreads / 32];
  if constexpr (kDigests) LoadWeights(parameter, weights);
  const unsigned group = threadIdx.x / kGroupThreads;
  WalkTiles(tiles, count, counter, &slots[group],
            [&](const Tile& tile, int thread) {
              QuantiseBlock<kDigests>(ops[tile.op], tile.index, thread,
                                      maxima[group], weights, values);
            });
}

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

__global__ void __launch_bounds__(kBlockThreads, 1)
    MaximaKernel(const Tile* tiles, uint32_t count, uint32_t* counter,
                 const QuantiseOp* ops, uint32_t* amax) {
  __shared__ uint32_t slots[kGroups];
  __shared__ uint32_t maxima[kGroups][kGroupThreads / 32];
  const unsigned group = threadIdx.x / kGroupThreads;
  WalkTiles(tiles, count, counter, &slots[group],
            [&](const Tile& tile, int thread) {
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
                most = ToBits(static_cast<DType>(op.from),
                              max(pair & 0xffffu, pair >> 16));
              } else {
                ForEach(chunk, 1, thread, [&](int64_t row, int64_t col) {
                  most = max(most, ElementBits(op, row, col) & kMagnitudeBits);
                });
              }
              most = GroupMax(most, thread, maxima[group]);
              if (thread == 0)
                atomicMax(amax + op.first_amax + chunk.block, most);
            });
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    ChunkKernel(const Tile* tiles, uint32_t count, uint32_t* counter,
                const QuantiseOp* ops, const uint32_t* amax) {
  __shared__ uint32_t slots[kGroups];
  WalkTiles(
      tiles, count, counter, &slots[threadIdx.x / kGroupThreads],
      [&](const Tile& tile, int thread) {
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
            StoreChunk(op.dst + row * op.dst_row_bytes + col,
                       QuantiseChunk(static_cast<DType>(op.from), data, inverse,
                                     special),
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

unsigned BlocksFor(const Grid& grid, const TileList& list) {
  return static_cast<unsigned>(std::min<uint64_t>(
      grid.num_sms, (uint64_t{list.count} + kGroups - 1) / kGroups));
}

}  // namespace

cudaError_t LaunchBlocks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const DigestSink& sink) {
  auto* const kernel =
      sink.constants == nullptr ? BlockKernel<false> : BlockKernel<true>;
  kernel<<<BlocksFor(grid, list), kBlockThreads, 0, grid.stream>>>(
      list.tiles, list.count, list.counter, ops, WeightsOf(sink.constants),
      sink.values);
  return cudaGetLastError();
}

cudaError_t LaunchMaxima(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, uint32_t* amax) {
  MaximaKernel<<<BlocksFor(grid, list), kBlockThreads, 0, grid.stream>>>(
      list.tiles, list.count, list.counter, ops, amax);
  return cudaGetLastError();
}

cudaError_t LaunchChunks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const uint32_t* amax) {
  ChunkKernel<<<BlocksFor(grid, list), kBlockThreads, 0, grid.stream>>>(
      list.tiles, list.count, list.counter, ops, amax);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
