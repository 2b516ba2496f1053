// Digests of planes, and copies that are digested as they are read: a warp does
// a tile of the lattice.
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

constexpr int kDigestUnroll = 4;
constexpr int kWholeUnroll = 8;  // divides the rows that a lane has

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
  const int64_t to = op.converts ? ItemOf(static_cast<DType>(op.to)) : op.item;
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

// A whole tile, aligned, unchanged: what nearly all tiles are.
template <bool kCopies>
__device__ __forceinline__ TileSum SumWhole(const DigestOp& op,
                                            const TilePart& part,
                                            const DigestWeights& weights) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int chunks = kTileCols * op.item / 16;  // of a row
  const int byte = lane % chunks * 16;
  const int rows_at_once = 32 / chunks;
  const int first = lane / chunks;
  const uint4 col0 = *reinterpret_cast<const uint4*>(&weights.col[0][byte / 4]);
  const uint4 col1 = *reinterpret_cast<const uint4*>(&weights.col[1][byte / 4]);
  const int64_t step = rows_at_once * op.row_bytes;
  const int64_t dst_step = rows_at_once * op.dst_row_bytes;
  const std::byte* src = part.data + first * op.row_bytes + byte;
  std::byte* dst = part.dst + first * op.dst_row_bytes + byte;
  TileSum sum;
  for (int row = first; row < kTileRows; row += kWholeUnroll * rows_at_once) {
    uint4 data[kWholeUnroll];
#pragma unroll
    for (int i = 0; i < kWholeUnroll; ++i) data[i] = Load16(src + i * step);
#pragma unroll
    for (int i = 0; i < kWholeUnroll; ++i) {
      if constexpr (kCopies) Store16(dst + i * dst_step, data[i]);
      sum.AddRow(weights, data[i], col0, col1, row + i * rows_at_once);
    }
    src += kWholeUnroll * step;
    if constexpr (kCopies) dst += kWholeUnroll * dst_step;
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

template <bool kCopies>
__global__ void __launch_bounds__(kBlockThreads, 1)
    DigestKernel(const Tile* tiles, uint32_t count, uint32_t* counter,
                 const DigestOp* ops,
                 const __grid_constant__ DigestWeights parameter,
                 DigestValue* values) {
  __shared__ alignas(16) DigestWeights weights;
  LoadWeights(parameter, weights);
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint32_t next = 0;
  if (lane == 0) next = atomicAdd(counter, 1u);
  for (uint32_t number = __shfl_sync(~0u, next, 0); number < count;
       number = __shfl_sync(~0u, next, 0)) {
    if (lane == 0) next = atomicAdd(counter, 1u);
    const Tile tile = tiles[number];
    const DigestOp& op = ops[tile.op];
    const uint32_t end =
        min(tile.index + kDigestTiles, op.tiles_down * op.tiles_across);
    for (uint32_t index = tile.index; index < end; ++index) {
      const TilePart part = PartOf(op, index);
      const bool by_cols = !kCopies && op.alignment == 0 &&
                           Magnitude(op.row_bytes) < Magnitude(op.col_bytes);
      TileSum sum;
      if (op.alignment == 16 && !op.converts && part.row_begin == 0 &&
          part.byte_begin == 0 && part.row_end == kTileRows &&
          part.byte_end == kTileCols * op.item) {
        sum = SumWhole<kCopies>(op, part, weights);
      } else {
        sum = by_cols ? SumCols(op, part, weights)
                      : SumRows<kCopies>(op, part, weights);
      }
      const uint64_t sum0 = WarpSum(sum.sum[0]);
      const uint64_t sum1 = WarpSum(sum.sum[1]);
      if (lane == 0 && values != nullptr) {
        AddToValue(values, part.value, sum0, sum1);
      }
    }
  }
}

}  // namespace

cudaError_t LaunchDigests(const Grid& grid, const TileList& list,
                          const DigestOp* ops, bool copies,
                          const DigestSink& sink) {
  constexpr unsigned kWarps = kBlockThreads / 32;
  const auto blocks = static_cast<unsigned>(std::min<uint64_t>(
      grid.num_sms, (uint64_t{list.count} + kWarps - 1) / kWarps));
  auto* const kernel = copies ? DigestKernel<true> : DigestKernel<false>;
  kernel<<<blocks, kBlockThreads, 0, grid.stream>>>(
      list.tiles, list.count, list.counter, ops, WeightsOf(sink.constants),
      sink.constants == nullptr ? nullptr : sink.values);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
