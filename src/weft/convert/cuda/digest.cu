// Digests of planes, and copies that are digested as they are read: a warp does
// a tile of the lattice.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/digest_tile.cuh"
#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/stage.cuh"
#include "weft/convert/cuda/tile_sum.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

constexpr int kDigestUnroll = 4;

// The 16 bytes from `byte` on of a row at `row`; those outside of the part are
// zero. Bytes of a column that do not lie side by side are gathered.
__device__ __forceinline__ uint4 LoadChunk(const DigestOp& op,
                                           const TilePart& part,
                                           const std::byte* row, int byte) {
  const bool whole = byte >= part.byte_begin && byte + 16 <= part.byte_end;
  if (op.alignment == 16 && whole) return Load16(row + byte);
  uint32_t words[4] = {0, 0, 0, 0};
  if (op.alignment >= 4 && whole) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = *reinterpret_cast<const uint32_t*>(row + byte + 4 * i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int at = byte + i;
      if (at < part.byte_begin || at >= part.byte_end) continue;
      const std::byte* const src =
          op.alignment > 0 ? row + at
                           : row + at / op.item * op.col_bytes + at % op.item;
      words[i / 4] |= static_cast<uint32_t>(*src) << (8 * (i % 4));
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

// Writes the elements of a chunk that are the part's.
__device__ __noinline__ void StoreConverted(const DigestOp& op, std::byte* row,
                                            uint4 data, int byte, int begin,
                                            int end) {
  const Caster cast{static_cast<DType>(op.from), static_cast<DType>(op.to),
                    static_cast<tensor::Transform>(op.transform)};
  const int from = ItemOf(cast.from);
  const int to = ItemOf(cast.to);
  const uint32_t words[4] = {data.x, data.y, data.z, data.w};
  uint32_t out[8];
  const int count = 16 / from;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i >= count) break;
    out[i] = cast(from == 4 ? words[i % 4]
                            : words[i / 2] >> (16 * (i % 2)) & 0xffffu);
  }
  std::byte* const dst = row + byte / from * to;
  if (byte >= begin && byte + 16 <= end) {
    if (to == 4) {
      Store16(dst, {out[0], out[1], out[2], out[3]});
      if (count == 8) Store16(dst + 16, {out[4], out[5], out[6], out[7]});
    } else if (count == 8) {
      Store16(dst, {out[0] | out[1] << 16, out[2] | out[3] << 16,
                    out[4] | out[5] << 16, out[6] | out[7] << 16});
    } else {
      *reinterpret_cast<uint2*>(dst) = {out[0] | out[1] << 16,
                                        out[2] | out[3] << 16};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = byte + i * from;
    if (i < count && at >= begin && at < end) {
      StoreItem(dst + i * to, to, true, out[i]);
    }
  }
}

__device__ __forceinline__ void StoreChunk(const DigestOp& op,
                                           const TilePart& part, std::byte* row,
                                           const uint4& data, int byte) {
  if (op.converts) {
    StoreConverted(op, row, data, byte, part.byte_begin, part.byte_end);
    return;
  }
  if (byte >= part.byte_begin && byte + 16 <= part.byte_end) {
    Store16(row + byte, data);
    return;
  }
  const uint32_t words[4] = {data.x, data.y, data.z, data.w};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int at = byte + i;
    if (at >= part.byte_begin && at < part.byte_end) {
      row[at] = static_cast<std::byte>(words[i / 4] >> (8 * (i % 4)));
    }
  }
}

// A whole tile, aligned and unchanged, goes through the stage as it is copied:
// in as many batches as an element has bytes, a chunk a slot.
struct WholeTile {
  const std::byte* src;  // of this lane
  std::byte* dst;
  int64_t src_step;  // from slot to slot
  int64_t dst_step;
  int64_t value;
  int row;  // of slot 0
  int rows_at_once;
  int word;
  int batches;  // 0: no tile

  __device__ __forceinline__ static WholeTile Of(const DigestOp& op,
                                                 uint32_t index) {
    WholeTile tile;
    const TilePart part = PartOf(op, index);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int chunks = kTileCols * op.item / 16;  // of a row
    tile.batches = op.item;
    tile.rows_at_once = 32 / chunks;
    tile.row = lane / chunks;
    tile.word = lane % chunks * 4;
    tile.src = part.data + tile.row * op.row_bytes + tile.word * 4;
    tile.src_step = tile.rows_at_once * op.row_bytes;
    tile.value = part.value;
    tile.dst = part.dst + tile.row * op.dst_row_bytes + tile.word * 4;
    tile.dst_step = tile.rows_at_once * op.dst_row_bytes;
    return tile;
  }

  __device__ __forceinline__ void Start(const Stage& stage, int batch,
                                        int slot) const {
    stage.Start(slot, src + (batch * kSlots + slot) * src_step);
  }
};
// 64 rows of 64 elements of `item` bytes are `item` batches of a warp's slots.
static_assert(kTileRows * kTileCols == kSlots * 32 * 16);

// The tile's sum. The loads of `next`, if it is a whole tile, too, begin as
// this one leaves the stage.
__device__ __forceinline__ TileSum SumWhole(const WholeTile& tile,
                                            const WholeTile& next,
                                            const Stage& stage,
                                            const DigestWeights& weights) {
  TileSum sum;
  const uint4 col0 =
      *reinterpret_cast<const uint4*>(&weights.col[0][tile.word]);
  const uint4 col1 =
      *reinterpret_cast<const uint4*>(&weights.col[1][tile.word]);
  int row = tile.row;
  std::byte* dst = tile.dst;
  for (int batch = 0; batch < tile.batches; ++batch) {
    const bool last = batch + 1 == tile.batches;
    stage.Wait();
#pragma unroll
    for (int i = 0; i < kSlots; i += kTaken) {
      uint4 data[kTaken];
#pragma unroll
      for (int j = 0; j < kTaken; ++j) data[j] = stage.Take(i + j);
#pragma unroll
      for (int j = 0; j < kTaken; ++j) {
        if (!last) {
          tile.Start(stage, batch + 1, i + j);
        } else if (next.batches > 0) {
          next.Start(stage, 0, i + j);
        }
      }
#pragma unroll
      for (int j = 0; j < kTaken; ++j) {
        Store16(dst, data[j]);
        dst += tile.dst_step;
        sum.AddRow(weights, data[j], col0, col1, row);
        row += tile.rows_at_once;
      }
    }
  }
  return sum;
}

// Lanes side by side along the rows: a chunk each. Any part, any alignment.
template <bool kCopies>
__device__ __noinline__ TileSum SumRows(const DigestOp& op,
                                        const TilePart& part,
                                        const DigestWeights& weights) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int chunks = kTileCols * op.item / 16;  // of a row
  const int byte = lane % chunks * 16;
  const int rows_at_once = 32 / chunks;
  const int first = part.row_begin + lane / chunks;
  const uint4 col0 = *reinterpret_cast<const uint4*>(&weights.col[0][byte / 4]);
  const uint4 col1 = *reinterpret_cast<const uint4*>(&weights.col[1][byte / 4]);
  TileSum sum;
  if (byte >= part.byte_end || byte + 16 <= part.byte_begin) return sum;
  for (int row = first; row < part.row_end;
       row += kDigestUnroll * rows_at_once) {
    uint4 data[kDigestUnroll];
#pragma unroll
    for (int i = 0; i < kDigestUnroll; ++i) {
      const int at = row + i * rows_at_once;
      data[i] = {0, 0, 0, 0};
      if (at < part.row_end) {
        data[i] = LoadChunk(op, part, part.data + at * op.row_bytes, byte);
      }
    }
#pragma unroll
    for (int i = 0; i < kDigestUnroll; ++i) {
      const int at = row + i * rows_at_once;
      if (kCopies && at < part.row_end) {
        StoreChunk(op, part, part.dst + at * op.dst_row_bytes, data[i], byte);
      }
      // Absent rows are zeros, under any weight.
      sum.AddRow(weights, data[i], col0, col1, at % kTileRows);
    }
  }
  return sum;
}

// Lanes side by side along the columns: where those lie closer together.
__device__ __noinline__ TileSum SumCols(const DigestOp& op,
                                        const TilePart& part,
                                        const DigestWeights& weights) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  TileSum sum;
  for (int row = part.row_begin + lane; row < part.row_end; row += 32) {
    for (int byte = part.byte_begin / 16 * 16; byte < part.byte_end;
         byte += 16) {
      sum.Add4(weights,
               LoadChunk(op, part, part.data + row * op.row_bytes, byte), row,
               byte / 4);
    }
  }
  return sum;
}

__device__ __forceinline__ int64_t Magnitude(int64_t value) {
  return value < 0 ? -value : value;
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    WholeKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                const DigestOp* ops,
                const __grid_constant__ DigestWeights parameter,
                DigestValue* values) {
  extern __shared__ uint4 dynamic[];
  __shared__ alignas(16) DigestWeights weights;
  LoadWeights(parameter, weights);
  const Stage stage(reinterpret_cast<std::byte*>(dynamic));
  const Walk walk = Walk::OfWarp(tiles, count, stop);
  DigestWalk at(walk, ops);
  if (!at.has()) return;
  WholeTile next = WholeTile::Of(at.op(), at.index());
#pragma unroll
  for (int i = 0; i < kSlots; ++i) next.Start(stage, 0, i);
  while (at.has()) {
    const WholeTile tile = next;
    const bool stopped = walk.Stopped();
    at.Advance();
    next.batches = 0;
    if (at.has()) next = WholeTile::Of(at.op(), at.index());
    const TileSum sum = SumWhole(tile, next, stage, weights);
    if (values != nullptr) AddToValue(values, tile.value, sum);
    if (__any_sync(~0u, stopped)) break;
  }
  stage.Wait();
}

template <bool kCopies>
__global__ void __launch_bounds__(kBlockThreads, 1)
    PartsKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                const DigestOp* ops,
                const __grid_constant__ DigestWeights parameter,
                DigestValue* values) {
  __shared__ alignas(16) DigestWeights weights;
  LoadWeights(parameter, weights);
  const Walk walk = Walk::OfWarp(tiles, count, stop);
  for (DigestWalk at(walk, ops); at.has(); at.Advance()) {
    const DigestOp& op = at.op();
    const TilePart part = PartOf(op, at.index());
    const bool by_cols = !kCopies && op.alignment == 0 &&
                         Magnitude(op.row_bytes) < Magnitude(op.col_bytes);
    const TileSum sum = by_cols ? SumCols(op, part, weights)
                                : SumRows<kCopies>(op, part, weights);
    if (values != nullptr) AddToValue(values, part.value, sum);
    if (__any_sync(~0u, walk.Stopped())) break;
  }
}

}  // namespace

cudaError_t PrepareDigests() {
  return cudaFuncSetAttribute(
      WholeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kStageBytes);
}

cudaError_t LaunchDigests(const Grid& grid, const TileList& list,
                          const DigestOp* ops, DigestKind kind,
                          const DigestSink& sink) {
  if (kind.whole && !kind.copies) return LaunchPanels(grid, list, ops, sink);
  auto* kernel = WholeKernel;
  if (!kind.whole)
    kernel = kind.copies ? PartsKernel<true> : PartsKernel<false>;
  kernel<<<BlocksFor(grid, list, kBlockThreads / 32), kBlockThreads,
           kind.whole ? kStageBytes : 0, grid.stream>>>(
      list.tiles, list.count, grid.stop, ops, WeightsOf(sink.constants),
      sink.constants == nullptr ? nullptr : sink.values);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
