// How threads take tiles. A thread block fills a multiprocessor, so that a grid
// of n blocks takes n multiprocessors and no more; within it, groups of threads
// walk the list each at its own pace.
#ifndef WEFT_CONVERT_CUDA_WALK_CUH_
#define WEFT_CONVERT_CUDA_WALK_CUH_

#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"

namespace weft::convert::cuda {

// A waiting point of the group's threads; number 0 is __syncthreads.
__device__ __forceinline__ void GroupSync() {
  asm volatile("bar.sync %0, %1;"
               :
               : "r"(threadIdx.x / kGroupThreads + 1), "n"(kGroupThreads)
               : "memory");
}

// Calls `work(tile, thread of the group)` for tiles that nobody else has taken,
// until the counter has passed them all: which is also how a walk is stopped.
// `slot` is the group's own word of shared memory.
template <typename Work>
__device__ __forceinline__ void WalkTiles(const Tile* tiles, uint32_t count,
                                          uint32_t* counter, uint32_t* slot,
                                          const Work& work) {
  const int thread = static_cast<int>(threadIdx.x % kGroupThreads);
  if (thread == 0) *slot = atomicAdd(counter, 1u);
  GroupSync();
  uint32_t number = *slot;
  while (number < count) {
    // The next number is on its way while this tile is worked on.
    uint32_t next = 0;
    if (thread == 0) next = atomicAdd(counter, 1u);
    work(tiles[number], thread);
    GroupSync();
    if (thread == 0) *slot = next;
    GroupSync();
    number = *slot;
  }
}

// Division of small numbers by one divisor: exact while n * divisor < 2^32.
struct SmallDivisor {
  uint32_t divisor;
  uint32_t magic;

  __device__ __forceinline__ explicit SmallDivisor(uint32_t by)
      : divisor(by), magic(by == 1 ? 0u : 0xffffffffu / by + 1u) {}
  __device__ __forceinline__ uint32_t Quotient(uint32_t n) const {
    return divisor == 1 ? n : __umulhi(n, magic);
  }
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_WALK_CUH_
