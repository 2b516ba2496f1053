// Pieces by bulk copies: a warp has a ring of tiles in shared memory, a lane
// begins one copy into it and one copy out of it for each piece, and no piece
// passes through registers.
//
// Why: with few multiprocessors what limits a pull is how many bytes are under
// way, and a piece in registers is under way only in small parts. On an H200,
// runs of 256 bytes in random order over NVLink with 16 multiprocessors: 284
// GB/s through registers, 353 to 367 so; with all of them 376 either way, which
// is what packets of 128 bytes leave of the link (docs/numbers.md).
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

constexpr int kBulkThreads = 512;
constexpr int kBulkWarps = kBulkThreads / 32;
constexpr int kRing = 3;  // tiles of a warp
constexpr int kTileBytes = static_cast<int>(kBulkTileBytes);
constexpr int kSharedBytes = kBulkWarps * kRing * kTileBytes;
static_assert(kMaxBulkPieces == 32, "a lane takes a piece");

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Barriers in shared memory that count bytes: bulk copies into it complete
// them. `barrier` is such an address.
__device__ __forceinline__ void MakeBarrier(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" : : "r"(barrier));
}
// The one arrival of a phase, and the bytes that it also waits for.
__device__ __forceinline__ void Expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void WaitForPhase(uint32_t barrier, uint32_t phase) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(phase)
        : "memory");
  }
}

__device__ __forceinline__ void BulkLoad(uint32_t shared, const std::byte* src,
                                         uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];"
      :
      : "r"(shared), "l"(src), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void BulkStore(std::byte* dst, uint32_t shared,
                                          uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
               :
               : "l"(dst), "r"(shared), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CommitStores() {
  asm volatile("cp.async.bulk.commit_group;" : : : "memory");
}
// Until this lane's stores have left shared memory; until they are done.
__device__ __forceinline__ void WaitUntilRead() {
  asm volatile("cp.async.bulk.wait_group.read 0;" : : : "memory");
}
__device__ __forceinline__ void WaitForStores() {
  asm volatile("cp.async.bulk.wait_group 0;" : : : "memory");
}

// A lane's piece of a tile in the ring.
struct Held {
  std::byte* dst = nullptr;
  uint32_t shared = 0;
  uint32_t bytes = 0;
};

// All lanes together: begins the loads of a tile at `shared`.
__device__ __forceinline__ Held StartTile(const Tile& tile, const Piece* pieces,
                                          uint32_t shared, uint32_t barrier) {
  const unsigned lane = threadIdx.x % 32;
  Held held;
  const std::byte* src = nullptr;
  if (lane < tile.op) {
    const Piece piece = pieces[tile.index + lane];
    src = piece.src;
    held.dst = piece.dst;
    held.bytes = static_cast<uint32_t>(piece.bytes);
  }
  uint32_t end = held.bytes;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t left = __shfl_up_sync(~0u, end, step);
    if (lane >= step) end += left;
  }
  held.shared = shared + end - held.bytes;
  if (lane == 31) Expect(barrier, end);
  __syncwarp();
  if (held.bytes > 0) BulkLoad(held.shared, src, held.bytes, barrier);
  return held;
}

__device__ __forceinline__ void MovePieces(const Tile* tiles, uint32_t count,
                                           const uint32_t* stop,
                                           const Piece* pieces) {
  extern __shared__ uint4 dynamic[];
  __shared__ uint64_t barriers[kBulkWarps][kRing];
  const unsigned warp = threadIdx.x / 32;
  const uint32_t ring = SharedAddress(dynamic) + warp * (kRing * kTileBytes);
  const uint32_t barrier = SharedAddress(barriers[warp]);
  if (threadIdx.x % 32 == 0) {
    for (int i = 0; i < kRing; ++i) MakeBarrier(barrier + i * 8);
    // The copies' side of memory is to see them, too.
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
  }
  __syncwarp();
  Walk next(tiles, count, stop, kBulkWarps, warp);
  Held held[kRing];
  int under_way = 0;
  uint32_t phase = 0;
  bool more = next.has();
#pragma unroll
  for (int i = 0; i < kRing - 1; ++i) {
    if (!more) break;
    held[i] =
        StartTile(next.tile(), pieces, ring + i * kTileBytes, barrier + i * 8);
    ++under_way;
    next.Advance();
    more = next.has();
  }
  while (under_way > 0) {
#pragma unroll
    for (int i = 0; i < kRing; ++i) {
      if (under_way == 0) break;
      more = more && !__any_sync(~0u, next.Stopped());
      if (more) {
        // Where the tile before this one was.
        constexpr int kLast = kRing - 1;
        const int at = (i + kLast) % kRing;
        const Tile tile = next.tile();
        WaitUntilRead();
        __syncwarp();
        held[at] =
            StartTile(tile, pieces, ring + at * kTileBytes, barrier + at * 8);
        ++under_way;
        next.Advance();
        more = next.has();
      }
      WaitForPhase(barrier + i * 8, phase);
      if (held[i].bytes > 0) {
        BulkStore(held[i].dst, held[i].shared, held[i].bytes);
      }
      CommitStores();
      --under_way;
    }
    phase ^= 1;
  }
  WaitForStores();
}

#else

// Never launched: the lowering makes no such tiles for these devices.
__device__ __forceinline__ void MovePieces(const Tile*, uint32_t,
                                           const uint32_t*, const Piece*) {
  __trap();
}

#endif

__global__ void __launch_bounds__(kBulkThreads, 1)
    BulkKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
               const Piece* pieces) {
  MovePieces(tiles, count, stop, pieces);
}

}  // namespace

cudaError_t PrepareBulk() {
  return cudaFuncSetAttribute(
      BulkKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

cudaError_t LaunchBulk(const Grid& grid, const TileList& list,
                       const Piece* pieces) {
  BulkKernel<<<BlocksFor(grid, list, kBulkWarps), kBulkThreads, kSharedBytes,
               grid.stream>>>(list.tiles, list.count, grid.stop, pieces);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
