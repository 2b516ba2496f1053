// Contiguous bytes at any alignment: rows, and pieces with addresses of their
// own.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/plane.cuh"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

// Chunks of rows whose first bytes may lie anywhere.
__device__ __forceinline__ void CopyAnyRows(const MoveOp& op, uint32_t index,
                                            int thread) {
  const Plane plane = PlaneOf(op, index);
  const uint32_t across = ChunksOf(kLineBytes - 1, plane.cols);
  const SmallDivisor divide(across);
  CopyChunks(plane.rows * across, thread, [&](uint32_t number) {
    const uint32_t row = divide.Quotient(number);
    return RowChunk{plane.src + row * op.src_row_bytes,
                    plane.dst + row * op.dst_row_bytes,
                    static_cast<int32_t>(plane.cols),
                    static_cast<int32_t>(number - row * across)};
  });
}

// A tile's pieces, and the chunks before each of them.
struct PieceTable {
  const std::byte* src[kMaxPieces];
  std::byte* dst[kMaxPieces];
  int32_t bytes[kMaxPieces];
  uint32_t first_chunk[kMaxPieces + 1];
};

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
        chunks[i] =
            ChunksOf(LinePhase(piece.dst), static_cast<uint32_t>(piece.bytes));
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

__device__ __forceinline__ void MovePieces(const Piece* pieces, int count,
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

__global__ void __launch_bounds__(kBlockThreads, 1)
    BytesKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                const MoveOp* ops, const Piece* pieces) {
  __shared__ PieceTable tables[kGroups];
  PieceTable& table = tables[threadIdx.x / kGroupThreads];
  const int thread = GroupThread();
  for (Walk walk = Walk::OfGroup(tiles, count, stop); walk.has();
       walk.Advance()) {
    const Tile tile = walk.tile();
    const bool stopped = walk.Stopped();
    const MoveOp& op = ops[tile.op];
    if (op.kind == MoveKind::kPieces) {
      MovePieces(pieces + op.first_piece, op.num_pieces, thread, table);
    } else {
      CopyAnyRows(op, tile.index, thread);
    }
    if (GroupAny(stopped)) break;
  }
}

}  // namespace

cudaError_t LaunchBytes(const Grid& grid, const TileList& list,
                        const MoveOp* ops, const Piece* pieces) {
  BytesKernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, 0,
                grid.stream>>>(list.tiles, list.count, grid.stop, ops, pieces);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
