// Quantisation by blocks that a group can hold: the source, which may be a
// peer's memory, is read once.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/quantise.cuh"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/stage.cuh"
#include "weft/convert/cuda/tile_sum.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

static_assert(kBlockChunks == kSlots * kGroupThreads);

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
  block.rows = static_cast<int>(min(op.block_rows, op.rows - block.row));
  block.cols = static_cast<int>(min(op.block_cols, op.cols - block.col));
  return block;
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

}  // namespace weft::convert::cuda
