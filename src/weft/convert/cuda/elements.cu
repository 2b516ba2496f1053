// Casts, transpositions and whatever else goes element by element.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/plane.cuh"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

using tensor::DType;

// Each kind of tile has a function that is not inlined: they would take the
// registers from one another.

// A group's shared memory: a tile of 8-byte elements, a column more.
constexpr int kGroupSharedBytes =
    static_cast<int>(kTransposeSide * (kLongCols + 1) * 8);
constexpr int kSharedBytes = kGroups * kGroupSharedBytes;

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

// Transposes elements, of type T after conversion, one by one: a column more
// in shared memory than there are keeps rows and columns out of each other's
// banks.
template <typename T, int kCols>
__device__ __noinline__ void TransposeItems(const MoveOp& op,
                                            const Plane& plane,
                                            const Caster& cast, int thread,
                                            std::byte* shared) {
  constexpr int kSide = kTransposeSide;
  constexpr int kSteps = kSide * kCols / kGroupThreads;
  static_assert(kSide * (kCols + 1) * sizeof(T) <= kGroupSharedBytes);
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
      tile[number % kSide * (kCols + 1) + number / kSide] = static_cast<T>(
          op.converts ? cast(static_cast<uint32_t>(bits[i])) : bits[i]);
    }
  }
  GroupSync();
#pragma unroll 4
  for (int i = 0; i < kSteps; ++i) {
    const int number = thread + i * kGroupThreads;
    const int row = number / kCols;
    const int col = number % kCols;
    if (row < plane.rows && col < plane.cols) {
      StoreItem(plane.dst + row * op.dst_row_bytes + col * op.dst_col_bytes,
                widths.to, op.aligned, tile[row * (kCols + 1) + col]);
    }
  }
}

__device__ __forceinline__ void MoveTranspose(const MoveOp& op,
                                              const Plane& plane,
                                              const Caster& cast, int thread,
                                              std::byte* shared) {
  switch (WidthsOf(op, cast).to) {
    case 1:
      return TransposeItems<uint8_t, kTransposeSide>(op, plane, cast, thread,
                                                     shared);
    case 2:
      return TransposeItems<uint16_t, kTransposeSide>(op, plane, cast, thread,
                                                      shared);
    case 4:
      return TransposeItems<uint32_t, kTransposeSide>(op, plane, cast, thread,
                                                      shared);
    default:
      return TransposeItems<uint64_t, kLongCols>(op, plane, cast, thread,
                                                 shared);
  }
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    ElementsKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                   const MoveOp* ops) {
  extern __shared__ uint4 dynamic[];
  std::byte* const shared = reinterpret_cast<std::byte*>(dynamic) +
                            threadIdx.x / kGroupThreads * kGroupSharedBytes;
  const int thread = GroupThread();
  for (Walk walk = Walk::OfGroup(tiles, count, stop); walk.has();
       walk.Advance()) {
    const Tile tile = walk.tile();
    const MoveOp& op = ops[tile.op];
    const Plane plane = PlaneOf(op, tile.index);
    const Caster cast{static_cast<DType>(op.from), static_cast<DType>(op.to),
                      static_cast<tensor::Transform>(op.transform)};
    if (op.kind == MoveKind::kCast) {
      MoveCast(op, plane, cast, thread);
    } else if (op.kind == MoveKind::kTranspose) {
      MoveTranspose(op, plane, cast, thread, shared);
    } else {
      MoveStrided(op, plane, cast, thread);
    }
    if (GroupAny(walk.Stopped())) break;
  }
}

}  // namespace

cudaError_t PrepareElements() {
  return cudaFuncSetAttribute(ElementsKernel,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedBytes);
}

cudaError_t LaunchElements(const Grid& grid, const TileList& list,
                           const MoveOp* ops) {
  ElementsKernel<<<BlocksFor(grid, list, kGroups), kBlockThreads, kSharedBytes,
                   grid.stream>>>(list.tiles, list.count, grid.stop, ops);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
