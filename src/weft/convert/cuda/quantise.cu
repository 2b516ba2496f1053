// Quantisation by blocks. A block that fits is held in the registers of a
// group: its source, which may be a peer's memory, is read once. Larger ones
// are cut into chunks and read twice, for the maximum and for the elements.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/stage.cuh"
#include "weft/convert/cuda/tile_sum.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

static_assert(kBlockChunks == kSlots * kGroupThreads);
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

// Where chunk `slot` of a thread lies in the matrix.
struct Position {
  int64_t row;
  int64_t col;
};

// A block of whole chunks of which a group holds whole rows at a time, as
// nearly all blocks are: a thread's chunks lie below each other. Goes through
// the stage.
struct RegularBlock {
  const std::byte* src;  // of the thread's first chunk
  std::byte* dst;
  int64_t src_step;
  int64_t dst_step;
  int64_t row;
  int64_t col;
  int row_step;
  int slots;  // that the thread has

  __device__ __forceinline__ RegularBlock(const QuantiseOp& op,
                                          const Region& region, int thread) {
    const int across = region.cols / kChunk;
    row_step = kGroupThreads / across;
    const int first = thread / across;
    row = region.row + first;
    col = region.col + (thread - first * across) * kChunk;
    slots = first < region.rows
                ? (region.rows - first + row_step - 1) / row_step
                : 0;
    src = op.src + row * op.src_row_bytes + col * 2;
    dst = op.dst + row * op.dst_row_bytes + col;
    src_step = row_step * op.src_row_bytes;
    dst_step = row_step * op.dst_row_bytes;
  }
  __device__ __forceinline__ void Start(const Stage& stage, int slot) const {
    if (slot < slots) stage.Start(slot, src + slot * src_step);
  }
  __device__ __forceinline__ uint4 Take(const Stage& stage, int slot) const {
    return slot < slots ? stage.Take(slot) : uint4{0, 0, 0, 0};
  }
  __device__ __forceinline__ bool has(int slot) const { return slot < slots; }
  __device__ __forceinline__ std::byte* Dst(int slot) const {
    return dst + slot * dst_step;
  }
  __device__ __forceinline__ Position At(int slot) const {
    return {row + slot * row_step, col};
  }
  __device__ __forceinline__ int Count(int /*slot*/) const { return kChunk; }
};

// Any other block that fits: held in registers.
struct HeldBlock {
  const QuantiseOp* op;
  Region region;
  SmallDivisor across;
  uint32_t total;
  int thread;
  uint4 data[kSlots];

  __device__ __forceinline__ HeldBlock(const QuantiseOp& of,
                                       const Region& where, int by)
      : op(&of),
        region(where),
        across((where.cols + kChunk - 1) / kChunk),
        total(where.rows * across.divisor),
        thread(by) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      data[i] = {0, 0, 0, 0};
      if (!has(i)) continue;
      const Position at = At(i);
      data[i] = LoadChunk(op->src + at.row * op->src_row_bytes + at.col * 2,
                          Count(i));
    }
  }
  __device__ __forceinline__ uint4 Take(const Stage& /*stage*/,
                                        int slot) const {
    return data[slot];
  }
  __device__ __forceinline__ bool has(int slot) const {
    return thread + slot * kGroupThreads < total;
  }
  __device__ __forceinline__ Position At(int slot) const {
    const uint32_t number = thread + slot * kGroupThreads;
    const uint32_t row = across.Quotient(number);
    return {region.row + row,
            region.col +
                static_cast<int64_t>(number - row * across.divisor) * kChunk};
  }
  __device__ __forceinline__ std::byte* Dst(int slot) const {
    const Position at = At(slot);
    return op->dst + at.row * op->dst_row_bytes + at.col;
  }
  __device__ __forceinline__ int Count(int slot) const {
    return static_cast<int>(region.col + region.cols - At(slot).col);
  }
};

// Codes of the elements that the matrix has: beyond its end there is nothing,
// not a zero's code.
__device__ __forceinline__ uint2 ClipCodes(uint2 codes, int count) {
  if (count < 4) codes.x &= (1u << (8 * count)) - 1;
  if (count <= 4) {
    codes.y = 0;
  } else if (count < kChunk) {
    codes.y &= (1u << (8 * (count - 4))) - 1;
  }
  return codes;
}

// Digests of a block's values and codes, as a thread meets them.
struct BlockDigests {
  RunningSum source;
  RunningSum result;

  __device__ __forceinline__ void Add(const QuantiseOp& op, const Position& at,
                                      bool present, int count,
                                      const uint4& data, const uint2& codes,
                                      const DigestWeights& weights,
                                      DigestValue* values) {
    const Place& from = op.source_place;
    const Place& to = op.result_place;
    if (from.first_value >= 0) {
      source.MoveTo(values, present ? ValueOf(from, at.row, at.col) : -1);
      if (present) {
        source.sum.Add4(
            weights, data,
            static_cast<int>((from.row_phase + at.row) % kTileRows),
            static_cast<int>((from.col_phase + at.col) % kTileCols) / 2);
      }
    }
    if (to.first_value >= 0) {
      result.MoveTo(values, present ? ValueOf(to, at.row, at.col) : -1);
      if (present) {
        result.sum.Add2(
            weights, ClipCodes(codes, count),
            static_cast<int>((to.row_phase + at.row) % kTileRows),
            static_cast<int>((to.col_phase + at.col) % kTileCols) / 4);
      }
    }
  }
  __device__ __forceinline__ void End(const QuantiseOp& op,
                                      DigestValue* values) {
    if (op.source_place.first_value >= 0) {
      Flush(values, source.tile, source.sum);
    }
    if (op.result_place.first_value >= 0) {
      Flush(values, result.tile, result.sum);
    }
  }
};

// What the blocks of a thread block share.
struct BlockContext {
  Stage stage;
  int thread;
  uint32_t* maxima;
  const DigestWeights* weights;
  DigestValue* values;
};

__device__ __forceinline__ void StoreScale(const QuantiseOp& op,
                                           uint32_t number, float scale) {
  std::byte* const at = op.scales +
                        number / op.blocks_across * op.scale_row_bytes +
                        number % op.blocks_across * op.scale_col_bytes;
  StoreItem(at, 4, IsAligned(at, 4), __float_as_uint(scale));
}

// `start_next(slot)` begins the loads of the next block as this one leaves the
// stage.
template <bool kDigests, typename Block, typename StartNext>
__device__ __forceinline__ void QuantiseBlock(const QuantiseOp& op,
                                              uint32_t number,
                                              const Block& block,
                                              const BlockContext& context,
                                              const StartNext& start_next) {
  const auto from = static_cast<DType>(op.from);
  uint32_t pair = 0;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    pair = MaxMagnitude(block.Take(context.stage, i), pair);
  }
  const uint32_t amax = ToBits(from, GroupMax(max(pair & 0xffffu, pair >> 16),
                                              context.thread, context.maxima));
  const float scale = ScaleOf(amax, op.power_of_two);
  const float inverse = __fdiv_rn(1.0f, scale);
  const bool special = amax >= kInfinityBits;
  if (context.thread == 0) StoreScale(op, number, scale);
  BlockDigests digests;
#pragma unroll
  for (int i = 0; i < kSlots; i += kTaken) {
    uint4 data[kTaken];
#pragma unroll
    for (int j = 0; j < kTaken; ++j) {
      data[j] = block.Take(context.stage, i + j);
    }
#pragma unroll
    for (int j = 0; j < kTaken; ++j) start_next(i + j);
#pragma unroll
    for (int j = 0; j < kTaken; ++j) {
      const int slot = i + j;
      const uint2 codes = QuantiseChunk(from, data[j], inverse, special);
      if (block.has(slot)) {
        StoreChunk(block.Dst(slot), codes, block.Count(slot));
      }
      if constexpr (kDigests) {
        digests.Add(op, block.At(slot), block.has(slot), block.Count(slot),
                    data[j], codes, *context.weights, context.values);
      }
    }
  }
  if constexpr (kDigests) digests.End(op, context.values);
}

template <bool kDigests>
__global__ void __launch_bounds__(kBlockThreads, 1)
    BlockKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                const QuantiseOp* ops,
                const __grid_constant__ DigestWeights parameter,
                DigestValue* values) {
  extern __shared__ uint4 dynamic[];
  __shared__ alignas(16) DigestWeights weights;
  __shared__ uint32_t maxima[kGroups][kGroupThreads / 32];
  if constexpr (kDigests) LoadWeights(parameter, weights);
  const BlockContext context{Stage(reinterpret_cast<std::byte*>(dynamic)),
                             GroupThread(), maxima[threadIdx.x / kGroupThreads],
                             &weights, values};
  const Stage& stage = context.stage;
  Walk walk = Walk::OfGroup(tiles, count, stop);
  if (!walk.has()) return;
  const auto block_of = [&](const Tile& tile) {
    return RegularBlock(ops[tile.op], BlockOf(ops[tile.op], tile.index),
                        context.thread);
  };
  Tile next_tile = walk.tile();
  RegularBlock next = block_of(next_tile);
  const auto start_next = [&](int slot) { next.Start(stage, slot); };
#pragma unroll
  for (int i = 0; i < kSlots; ++i) start_next(i);
  while (walk.has()) {
    const Tile tile = next_tile;
    const RegularBlock block = next;
    const bool stopped = walk.Stopped();
    walk.Advance();
    next.slots = 0;
    if (walk.has()) {
      next_tile = walk.tile();
      next = block_of(next_tile);
    }
    stage.Wait();
    QuantiseBlock<kDigests>(ops[tile.op], tile.index, block, context,
                            start_next);
    if (GroupAny(stopped)) break;
  }
  stage.Wait();
}

template <bool kDigests>
__global__ void __launch_bounds__(kBlockThreads, 1)
    HeldKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
               const QuantiseOp* ops,
               const __grid_constant__ DigestWeights parameter,
               DigestValue* values) {
  __shared__ alignas(16) DigestWeights weights;
  __shared__ uint32_t maxima[kGroups][kGroupThreads / 32];
  if constexpr (kDigests) LoadWeights(parameter, weights);
  const BlockContext context{Stage(nullptr), GroupThread(),
                             maxima[threadIdx.x / kGroupThreads], &weights,
                             values};
  for (Walk walk = Walk::OfGroup(tiles, count, stop); walk.has();
       walk.Advance()) {
    const Tile tile = walk.tile();
    const QuantiseOp& op = ops[tile.op];
    const HeldBlock block(op, BlockOf(op, tile.index), context.thread);
    QuantiseBlock<kDigests>(op, tile.index, block, context,
                            [](int /*slot*/) {});
    if (GroupAny(walk.Stopped())) break;
  }
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

cudaError_t PrepareQuantisers() {
  const cudaError_t error = cudaFuncSetAttribute(
      BlockKernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
      kStageBytes);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(BlockKernel<true>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kStageBytes);
}

cudaError_t LaunchBlocks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const DigestSink& sink) {
  auto* const kernel =
      sink.constants == nullptr ? BlockKernel<false> : BlockKernel<true>;
  kernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, kStageBytes,
           grid.stream>>>(list.tiles, list.count, grid.stop, ops,
                          WeightsOf(sink.constants), sink.values);
  return cudaGetLastError();
}

cudaError_t LaunchHeld(const Grid& grid, const TileList& list,
                       const QuantiseOp* ops, const DigestSink& sink) {
  auto* const kernel =
      sink.constants == nullptr ? HeldKernel<false> : HeldKernel<true>;
  kernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, 0, grid.stream>>>(
      list.tiles, list.count, grid.stop, ops, WeightsOf(sink.constants),
      sink.values);
  return cudaGetLastError();
}

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
