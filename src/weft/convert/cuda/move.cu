// Copies, casts and transpositions.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

// Each kind of tile has a function that is not inlined: they would take the
// registers from one another.

// The part of an op's plane that a tile is.
struct Plane {
  const std::byte* src;  // of its first element
  std::byte* dst;
  uint32_t rows;
  uint32_t cols;
};

__device__ __forceinline__ Plane PlaneOf(const MoveOp& op, uint32_t index) {
  const uint32_t col_tile = index % op.col_tiles;
  index /= op.col_tiles;
  const uint32_t row_tile = index % op.row_tiles;
  index /= op.row_tiles;
  const auto inner = static_cast<uint32_t>(op.outer_extent[0]);
  const int64_t digit0 = index % inner;
  const int64_t digit1 = index / inner;
  const int64_t row = static_cast<int64_t>(row_tile) * op.tile_rows;
  const int64_t col = static_cast<int64_t>(col_tile) * op.tile_cols;
  const bool bytes = op.kind == MoveKind::kRows;
  Plane plane;
  plane.src = op.src + digit0 * op.outer_src_bytes[0] +
              digit1 * op.outer_src_bytes[1] + row * op.src_row_bytes +
              col * (bytes ? 1 : op.src_col_bytes);
  plane.dst = op.dst + digit0 * op.outer_dst_bytes[0] +
              digit1 * op.outer_dst_bytes[1] + row * op.dst_row_bytes +
              col * (bytes ? 1 : op.dst_col_bytes);
  plane.rows = static_cast<uint32_t>(
      min(static_cast<int64_t>(op.tile_rows), op.rows - row));
  plane.cols = static_cast<uint32_t>(
      min(static_cast<int64_t>(op.tile_cols), op.cols - col));
  return plane;
}

__device__ __forceinline__ bool AllMultiples(const MoveOp& op,
                                             const Plane& plane, unsigned of) {
  const uint64_t bits =
      reinterpret_cast<uintptr_t>(plane.src) |
      reinterpret_cast<uintptr_t>(plane.dst) |
      (plane.rows == 1
           ? 0
           : static_cast<uint64_t>(op.src_row_bytes | op.dst_row_bytes));
  return bits % of == 0;
}

__device__ __noinline__ void CopyAlignedRows(const MoveOp& op,
                                             const Plane& plane, int thread) {
  const uint32_t across = plane.cols / 16;
  const uint32_t total = plane.rows * across;
  const SmallDivisor divide(across);
  for (uint32_t base = thread; base < total;
       base += kAlignedUnroll * kGroupThreads) {
    uint4 data[kAlignedUnroll];
#pragma unroll
    for (int i = 0; i < kAlignedUnroll; ++i) {
      const uint32_t number = base + i * kGroupThreads;
      if (number < total) {
        const uint32_t row = divide.Quotient(number);
        data[i] = Load16(plane.src + row * op.src_row_bytes +
                         (number - row * across) * 16);
      }
    }
#pragma unroll
    for (int i = 0; i < kAlignedUnroll; ++i) {
      const uint32_t number = base + i * kGroupThreads;
      if (number < total) {
        const uint32_t row = divide.Quotient(number);
        Store16(
            plane.dst + row * op.dst_row_bytes + (number - row * across) * 16,
            data[i]);
      }
    }
  }
}

// Chunks of rows whose first bytes may lie anywhere.
__device__ __noinline__ void CopyAnyRows(const MoveOp& op, const Plane& plane,
                                         int thread) {
  const uint32_t across = (plane.cols + 30) / 16;
  const SmallDivisor divide(across);
  CopyChunks(plane.rows * across, thread, [&](uint32_t number) {
    const uint32_t row = divide.Quotient(number);
    return RowChunk{plane.src + row * op.src_row_bytes,
                    plane.dst + row * op.dst_row_bytes,
                    static_cast<int32_t>(plane.cols),
                    static_cast<int32_t>(number - row * across)};
  });
}

__device__ __forceinline__ void MoveRows(const MoveOp& op, const Plane& plane,
                                         int thread) {
  if (plane.cols % 16 == 0 && AllMultiples(op, plane, 16)) {
    CopyAlignedRows(op, plane, thread);
  } else {
    CopyAnyRows(op, plane, thread);
  }
}

// A tile's pieces, and the chunks before each of them.
struct PieceTable {
  const std::byte* src[kMaxPieces];
  std::byte* dst[kMaxPieces];
  int32_t bytes[kMaxPieces];
  uint32_t first_chunk[kMaxPieces + 1];
};
static_assert(sizeof(PieceTable) <= kGroupSharedBytes);

__device__ __forceinline__ void FillPieceTable(const Piece* pieces, int count,
                                               int thread, PieceTable& table) {
  // The first warp: a few pieces a lane, and a sum over the lanes.
  if (thread < 32) {
    constexpr int kEach = kMaxPieces / 32;
    uint32_t chunks[kEach];
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int number = thread * kEach + i;
      chunks[i] = 0;
      if (number < count) {
        const Piece piece = pieces[number];
        table.src[number] = piece.src;
        table.dst[number] = piece.dst;
        table.bytes[number] = static_cast<int32_t>(piece.bytes);
        chunks[i] = static_cast<uint32_t>(
            (reinterpret_cast<uintptr_t>(piece.dst) % 16 + piece.bytes + 15) /
            16);
      }
      sum += chunks[i];
    }
    uint32_t before = sum;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t left = __shfl_up_sync(~0u, before, step);
      if (thread >= step) before += left;
    }
    before -= sum;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      table.first_chunk[thread * kEach + i] = before;
      before += chunks[i];
    }
    if (thread == 31) table.first_chunk[kMaxPieces] = before;
  }
  GroupSync();
}

__device__ __noinline__ void MovePieces(const Piece* pieces, int count,
                                        int thread, PieceTable& table) {
  FillPieceTable(pieces, count, thread, table);
  CopyChunks(table.first_chunk[kMaxPieces], thread, [&](uint32_t number) {
    // The last piece that begins at or before the chunk.
    int piece = 0;
#pragma unroll
    for (int step = kMaxPieces / 2; step > 0; step /= 2) {
      if (table.first_chunk[piece + step] <= number) piece += step;
    }
    return RowChunk{table.src[piece], table.dst[piece], table.bytes[piece],
                    static_cast<int32_t>(number - table.first_chunk[piece])};
  });
}

constexpr int kCastElements = 8;  // of a thread at a time

__device__ __forceinline__ void LoadEight(const std::byte* src, int item,
                                          uint32_t* bits) {
  const uint4 low = Load16(src);
  if (item == 2) {
    const uint32_t words[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
    for (int i = 0; i < kCastElements; ++i) {
      bits[i] = words[i / 2] >> (16 * (i % 2)) & 0xffffu;
    }
    return;
  }
  const uint4 high = Load16(src + 16);
  const uint32_t words[8] = {low.x,  low.y,  low.z,  low.w,
                             high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < kCastElements; ++i) bits[i] = words[i];
}

__device__ __forceinline__ void StoreEight(std::byte* dst, int item,
                                           const uint32_t* bits) {
  if (item == 2) {
    Store16(dst, {bits[0] | bits[1] << 16, bits[2] | bits[3] << 16,
                  bits[4] | bits[5] << 16, bits[6] | bits[7] << 16});
    return;
  }
  Store16(dst, {bits[0], bits[1], bits[2], bits[3]});
  Store16(dst + 16, {bits[4], bits[5], bits[6], bits[7]});
}

__device__ __noinline__ void MoveCast(const MoveOp& op, const Plane& plane,
                                      const Caster& cast, int thread) {
  const int from = ItemOf(cast.from);
  const int to = ItemOf(cast.to);
  const bool vectors = AllMultiples(op, plane, 16);
  const uint32_t across = (plane.cols + kCastElements - 1) / kCastElements;
  const SmallDivisor divide(across);
  for (uint32_t number = thread; number < plane.rows * across;
       number += kGroupThreads) {
    const uint32_t row = divide.Quotient(number);
    const uint32_t col = (number - row * across) * kCastElements;
    const std::byte* const src =
        plane.src + row * op.src_row_bytes + col * from;
    std::byte* const dst = plane.dst + row * op.dst_row_bytes + col * to;
    if (vectors && col + kCastElements <= plane.cols) {
      uint32_t bits[kCastElements];
      LoadEight(src, from, bits);
#pragma unroll
      for (int i = 0; i < kCastElements; ++i) bits[i] = cast(bits[i]);
      StoreEight(dst, to, bits);
      continue;
    }
    const auto count =
        min(static_cast<uint32_t>(kCastElements), plane.cols - col);
    for (uint32_t i = 0; i < count; ++i) {
      const auto bits =
          static_cast<uint32_t>(LoadItem(src + i * from, from, op.aligned));
      StoreItem(dst + i * to, to, op.aligned, cast(bits));
    }
  }
}

struct Widths {
  int from;
  int to;
};

__device__ __forceinline__ Widths WidthsOf(const MoveOp& op,
                                           const Caster& cast) {
  if (!op.converts) return {op.item, op.item};
  return {ItemOf(cast.from), ItemOf(cast.to)};
}

__device__ __forceinline__ uint64_t LoadConverted(const MoveOp& op,
                                                  const Caster& cast,
                                                  const std::byte* src,
                                                  int item) {
  const uint64_t bits = LoadItem(src, item, op.aligned);
  return op.converts ? cast(static_cast<uint32_t>(bits)) : bits;
}

__device__ __noinline__ void MoveStrided(const MoveOp& op, const Plane& plane,
                                         const Caster& cast, int thread) {
  const Widths widths = WidthsOf(op, cast);
  const SmallDivisor divide(plane.cols);
  for (uint32_t number = thread; number < plane.rows * plane.cols;
       number += kGroupThreads) {
    const int64_t row = divide.Quotient(number);
    const int64_t col = number - row * plane.cols;
    const std::byte* const src =
        plane.src + row * op.src_row_bytes + col * op.src_col_bytes;
    StoreItem(plane.dst + row * op.dst_row_bytes + col * op.dst_col_bytes,
              widths.to, op.aligned, LoadConverted(op, cast, src, widths.from));
  }
}

// Transposes 2-byte elements 8 at a time. The shared tile holds, for every
// column, 8 chunks of 8 rows; which place a chunk takes depends on the column,
// so that neither the writes by columns nor the reads by rows meet in a bank.
__device__ __noinline__ void TransposeWide(const MoveOp& op, const Plane& plane,
                                           int thread, std::byte* shared) {
  constexpr int kChunks = kTransposeSide / 8;  // of a column
  constexpr int kColBytes = kTransposeSide * 2;
  constexpr int kSteps = kWideCols * kChunks / kGroupThreads;
  const auto place = [&](int col, int chunk) {
    return shared + col * kColBytes + ((chunk ^ (col / 8)) % kChunks) * 16;
  };
  uint4 data[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int number = thread + i * kGroupThreads;
    const int chunk = number % kChunks;
    const int col = number / kChunks;
    if (chunk * 8 < plane.rows && col < plane.cols) {
      data[i] = Load16(plane.src + chunk * 16 + col * op.src_col_bytes);
    }
  }
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int number = thread + i * kGroupThreads;
    *reinterpret_cast<uint4*>(place(number / kChunks, number % kChunks)) =
        data[i];
  }
  GroupSync();
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
      words[j] = *reinterpret_cast<const uint32_t*>(place(cols + j, row / 8) +
                                                    row % 8 * 2);
    }
    if (row >= plane.rows || cols >= plane.cols) continue;
    std::byte* const dst = plane.dst + row * op.dst_row_bytes + cols * 2;
    Store16(dst, {__byte_perm(words[0], words[1], 0x5410),
                  __byte_perm(words[2], words[3], 0x5410),
                  __byte_perm(words[4], words[5], 0x5410),
                  __byte_perm(words[6], words[7], 0x5410)});
    Store16(dst + op.dst_row_bytes, {__byte_perm(words[0], words[1], 0x7632),
                                     __byte_perm(words[2], words[3], 0x7632),
                                     __byte_perm(words[4], words[5], 0x7632),
                                     __byte_perm(words[6], words[7], 0x7632)});
  }
}

// The same for elements of type T after conversion, one by one: a column more
// in shared memory than there are keeps rows and columns out of each other's
// banks.
template <typename T>
__device__ __noinline__ void TransposeItems(const MoveOp& op,
                                            const Plane& plane,
                                            const Caster& cast, int thread,
                                            std::byte* shared) {
  constexpr int kSide = kTransposeSide;
  constexpr int kSteps = kSide * kSide / kGroupThreads;
  constexpr int kBatch = 8;
  auto* const tile = reinterpret_cast<T*>(shared);
  const Widths widths = WidthsOf(op, cast);
  for (int begin = 0; begin < kSteps; begin += kBatch) {
    uint64_t bits[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int number = thread + (begin + i) * kGroupThreads;
      const int row = number % kSide;
      const int col = number / kSide;
      bits[i] = 0;
      if (row < plane.rows && col < plane.cols) {
        bits[i] = LoadItem(
            plane.src + row * op.src_row_bytes + col * op.src_col_bytes,
            widths.from, op.aligned);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int number = thread + (begin + i) * kGroupThreads;
      tile[number % kSide * (kSide + 1) + number / kSide] = static_cast<T>(
          op.converts ? cast(static_cast<uint32_t>(bits[i])) : bits[i]);
    }
  }
  GroupSync();
#pragma unroll 4
  for (int i = 0; i < kSteps; ++i) {
    const int number = thread + i * kGroupThreads;
    const int row = number / kSide;
    const int col = number % kSide;
    if (row < plane.rows && col < plane.cols) {
      StoreItem(plane.dst + row * op.dst_row_bytes + col * op.dst_col_bytes,
                widths.to, op.aligned, tile[row * (kSide + 1) + col]);
    }
  }
}

__device__ __forceinline__ void MoveTranspose(const MoveOp& op,
                                              const Plane& plane,
                                              const Caster& cast, int thread,
                                              std::byte* shared) {
  if (op.wide) {
    TransposeWide(op, plane, thread, shared);
    return;
  }
  switch (WidthsOf(op, cast).to) {
    case 1:
      return TransposeItems<uint8_t>(op, plane, cast, thread, shared);
    case 2:
      return TransposeItems<uint16_t>(op, plane, cast, thread, shared);
    case 4:
      return TransposeItems<uint32_t>(op, plane, cast, thread, shared);
    default:
      return TransposeItems<uint64_t>(op, plane, cast, thread, shared);
  }
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    MoveKernel(const Tile* tiles, uint32_t count, uint32_t* counter,
               const MoveOp* ops, const Piece* pieces) {
  extern __shared__ uint4 dynamic[];
  __shared__ uint32_t slots[kGroups];
  const unsigned group = threadIdx.x / kGroupThreads;
  std::byte* const shared =
      reinterpret_cast<std::byte*>(dynamic) + group * kGroupSharedBytes;
  WalkTiles(tiles, count, counter, &slots[group],
            [&](const Tile& tile, int thread) {
              const MoveOp& op = ops[tile.op];
              if (op.kind == MoveKind::kPieces) {
                MovePieces(pieces + op.first_piece, op.num_pieces, thread,
                           *reinterpret_cast<PieceTable*>(shared));
                return;
              }
              const Plane plane = PlaneOf(op, tile.index);
              if (op.kind == MoveKind::kRows) {
                MoveRows(op, plane, thread);
                return;
              }
              const Caster cast{static_cast<DType>(op.from),
                                static_cast<DType>(op.to),
                                static_cast<tensor::Transform>(op.transform)};
              if (op.kind == MoveKind::kCast) {
                MoveCast(op, plane, cast, thread);
              } else if (op.kind == MoveKind::kTranspose) {
                MoveTranspose(op, plane, cast, thread, shared);
              } else {
                MoveStrided(op, plane, cast, thread);
              }
            });
}

constexpr int kSharedBytes = kGroups * static_cast<int>(kGroupSharedBytes);

}  // namespace

cudaError_t PrepareKernels() {
  return cudaFuncSetAttribute(
      MoveKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

cudaError_t LaunchMoves(const Grid& grid, const TileList& list,
                        const MoveOp* ops, const Piece* pieces) {
  const auto blocks = static_cast<unsigned>(std::min<uint64_t>(
      grid.num_sms, (uint64_t{list.count} + kGroups - 1) / kGroups));
  MoveKernel<<<blocks, kBlockThreads, kSharedBytes, grid.stream>>>(
      list.tiles, list.count, list.counter, ops, pieces);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
