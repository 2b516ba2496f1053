// How threads take tiles. A thread block fills a multiprocessor, so that a grid
// of n blocks takes n multiprocessors and no more; within it, groups of threads
// (or warps) walk the list each at its own pace, in steps of how many there
// are.
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

// The same, and whether any of the threads says so.
__device__ __forceinline__ bool GroupAny(bool mine) {
  unsigned any = 0;
  asm volatile(
      "{\n"
      ".reg .pred in, out;\n"
      "setp.ne.u32 in, %1, 0;\n"
      "bar.red.or.pred out, %2, %3, in;\n"
      "selp.u32 %0, 1, 0, out;\n"
      "}"
      : "=r"(any)
      : "r"(static_cast<unsigned>(mine)), "r"(threadIdx.x / kGroupThreads + 1),
        "n"(kGroupThreads)
      : "memory");
  return any != 0;
}

__device__ __forceinline__ int GroupThread() {
  return static_cast<int>(threadIdx.x % kGroupThreads);
}

// The tiles of one group, or of one warp, among all of the grid.
class Walk {
 public:
  __device__ __forceinline__ Walk(const Tile* tiles, uint32_t count,
                                  const uint32_t* stop, uint32_t per_block,
                                  uint32_t own)
      : tiles_(tiles),
        count_(count),
        number_(blockIdx.x * per_block + own),
        step_(gridDim.x * per_block),
        stop_(stop) {}
  __device__ __forceinline__ static Walk OfGroup(const Tile* tiles,
                                                 uint32_t count,
                                                 const uint32_t* stop) {
    return {tiles, count, stop, kGroups, threadIdx.x / kGroupThreads};
  }
  __device__ __forceinline__ static Walk OfWarp(const Tile* tiles,
                                                uint32_t count,
                                                const uint32_t* stop) {
    return {tiles, count, stop, kBlockThreads / 32, threadIdx.x / 32};
  }

  __device__ __forceinline__ bool has() const { return number_ < count_; }
  __device__ __forceinline__ Tile tile() const { return tiles_[number_]; }
  __device__ __forceinline__ void Advance() { number_ += step_; }
  // Threads may find different answers: those who wait for each other have to
  // agree on one (GroupAny).
  __device__ __forceinline__ bool Stopped() const {
    return *static_cast<const volatile uint32_t*>(stop_) != 0;
  }

 private:
  const Tile* tiles_;
  uint32_t count_;
  uint32_t number_;
  uint32_t step_;
  const uint32_t* stop_;
};

// Division of small numbers by one divisor: exact while n * divisor < 2^32.
struct SmallDivisor {
  uint32_t divisor = 1;
  uint32_t magic = 0;

  SmallDivisor() = default;
  __device__ __forceinline__ explicit SmallDivisor(uint32_t by)
      : divisor(by), magic(by == 1 ? 0u : 0xffffffffu / by + 1u) {}
  __device__ __forceinline__ uint32_t Quotient(uint32_t n) const {
    return divisor == 1 ? n : __umulhi(n, magic);
  }
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_WALK_CUH_
