// Loads that wait in shared memory. Each thread has 16-byte slots of its own:
// it starts the loads of the next tile into them as it takes the present one
// out, so that a group always has a tile under way, and waits for nobody else's
// loads.
#ifndef WEFT_CONVERT_CUDA_STAGE_CUH_
#define WEFT_CONVERT_CUDA_STAGE_CUH_

#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"

namespace weft::convert::cuda {

// Slots of a thread; a tile of contiguous rows is one for each.
inline constexpr int kSlots = kRowTileBytes / 16 / kGroupThreads;
// How many of them a thread has in registers at a time.
inline constexpr int kTaken = 4;
inline constexpr int kStageBytes = kSlots * kBlockThreads * 16;

// Starts a load of 16 bytes into shared memory. Neither this nor what follows
// says that it touches memory, or everything that a kernel knows of its tile
// would be read again after each: the compiler keeps them in order, as it does
// all that is volatile.
__device__ __forceinline__ void StartLoad(uint32_t shared,
                                          const std::byte* src) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(shared), "l"(src));
}
__device__ __forceinline__ void StartLoad(std::byte* shared,
                                          const std::byte* src) {
  StartLoad(static_cast<uint32_t>(__cvta_generic_to_shared(shared)), src);
}
// The same where the line beside it is wanted soon, too.
__device__ __forceinline__ void StartLoadOfLines(uint32_t shared,
                                                 const std::byte* src) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;"
               :
               : "r"(shared), "l"(src));
}
// What this thread started since the last of these is one group.
__device__ __forceinline__ void CommitLoads() {
  asm volatile("cp.async.commit_group;");
}
// For all groups of this thread but the last.
__device__ __forceinline__ void WaitForAllButLast() {
  asm volatile("cp.async.wait_group 1;");
}
// For all that this thread started.
__device__ __forceinline__ void WaitForLoads() {
  asm volatile("cp.async.wait_all;");
}

class Stage {
 public:
  // `shared`: kStageBytes, of the whole thread block.
  __device__ __forceinline__ explicit Stage(std::byte* shared)
      : address_(static_cast<uint32_t>(__cvta_generic_to_shared(shared)) +
                 threadIdx.x * 16) {}

  __device__ __forceinline__ void Start(int slot, const std::byte* src) const {
    StartLoad(address_ + slot * kBlockThreads * 16, src);
  }
  __device__ __forceinline__ void Wait() const { WaitForLoads(); }
  __device__ __forceinline__ uint4 Take(int slot) const {
    uint4 data;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(data.x), "=r"(data.y), "=r"(data.z), "=r"(data.w)
                 : "r"(address_ + slot * kBlockThreads * 16));
    return data;
  }

 private:
  uint32_t address_;
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_STAGE_CUH_
