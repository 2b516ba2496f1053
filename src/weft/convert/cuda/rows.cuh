// Contiguous bytes at any alignment, as chunks: a chunk is what lies between
// two multiples of 16 bytes at the destination. They are numbered from the line
// of 128 bytes on in which a row begins, so that a warp writes whole lines:
// each is a packet on a link.
#ifndef WEFT_CONVERT_CUDA_ROWS_CUH_
#define WEFT_CONVERT_CUDA_ROWS_CUH_

#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"
#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {

inline constexpr int kUnroll = 4;  // loads in flight a thread

// Data is used once: it should not displace what a serving engine holds.
__device__ __forceinline__ uint4 Load16(const std::byte* src) {
  return __ldcs(reinterpret_cast<const uint4*>(src));
}

__device__ __forceinline__ void Store16(std::byte* dst, const uint4& data) {
  __stcs(reinterpret_cast<uint4*>(dst), data);
}

// 16 bytes from any address; the 4 words around them lie within
// [begin, end), which is the row they belong to, or they are read one by one.
__device__ __forceinline__ uint4 LoadAny16(const std::byte* src,
                                           const std::byte* begin,
                                           const std::byte* end) {
  if (IsAligned(src, 16)) return Load16(src);
  uint4 data;
  if (IsAligned(src, 8)) {
    const uint2 low = *reinterpret_cast<const uint2*>(src);
    const uint2 high = *reinterpret_cast<const uint2*>(src + 8);
    return {low.x, low.y, high.x, high.y};
  }
  auto* const out = reinterpret_cast<uint32_t*>(&data);
  const unsigned phase =
      static_cast<unsigned>(reinterpret_cast<uintptr_t>(src) % 4);
  const std::byte* const first = src - phase;
  if (phase == 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[i] = *reinterpret_cast<const uint32_t*>(src + 4 * i);
    }
  } else if (first >= begin && first + 20 <= end) {
    uint32_t words[5];
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      words[i] = *reinterpret_cast<const uint32_t*>(first + 4 * i);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[i] = __funnelshift_r(words[i], words[i + 1], 8 * phase);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[i] = static_cast<uint32_t>(LoadItem(src + 4 * i, 4, false));
    }
  }
  return data;
}

__device__ __forceinline__ uint32_t LinePhase(const std::byte* dst) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(dst) % kLineBytes);
}

// Chunks of a row of `bytes`, whole lines of them.
__device__ __forceinline__ uint32_t ChunksOf(uint32_t phase, uint32_t bytes) {
  return (phase + bytes + kLineBytes - 1) / kLineBytes * (kLineBytes / 16);
}

// A row of `bytes` and the chunk number `chunk` of it.
struct RowChunk {
  const std::byte* src;  // of the row
  std::byte* dst;
  int32_t bytes;  // of the row
  int32_t chunk;

  __device__ __forceinline__ int32_t begin() const {
    return chunk * 16 - static_cast<int32_t>(LinePhase(dst));
  }
};

__device__ __forceinline__ void CopyBytes(const RowChunk& at, int32_t begin,
                                          int32_t end) {
  for (int32_t i = max(begin, 0); i < min(end, at.bytes); ++i) {
    at.dst[i] = at.src[i];
  }
}

// Copies the chunks [0, total) that `locate` finds, all threads of the group
// together.
template <typename Locate>
__device__ __forceinline__ void CopyChunks(uint32_t total, int thread,
                                           const Locate& locate) {
  for (uint32_t base = thread; base < total; base += kUnroll * kGroupThreads) {
    uint4 data[kUnroll];
    std::byte* dst[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      dst[i] = nullptr;
      const uint32_t number = base + i * kGroupThreads;
      if (number >= total) continue;
      const RowChunk at = locate(number);
      const int32_t begin = at.begin();
      if (begin >= 0 && begin + 16 <= at.bytes) {
        data[i] = LoadAny16(at.src + begin, at.src, at.src + at.bytes);
        dst[i] = at.dst + begin;
      } else {
        CopyBytes(at, begin, begin + 16);
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (dst[i] != nullptr) Store16(dst[i], data[i]);
    }
  }
}

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_ROWS_CUH_
