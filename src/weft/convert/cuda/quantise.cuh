// What quantisers of blocks and of chunks share: 8 elements of 2 bytes at a
// time, and the largest of a group.
#ifndef WEFT_CONVERT_CUDA_QUANTISE_CUH_
#define WEFT_CONVERT_CUDA_QUANTISE_CUH_

#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/element.cuh"
#include "weft/convert/cuda/rows.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {

inline constexpr int kChunk = static_cast<int>(kChunkElements);

// The largest `value` of the group's threads.
__device__ __forceinline__ uint32_t GroupMax(uint32_t value, int thread,
                                             uint32_t* shared) {
  value = __reduce_max_sync(~0u, value);
  if (thread % 32 == 0) shared[thread / 32] = value;
  GroupSync();
  value = shared[0];
#pragma unroll
  for (int i = 1; i < kGroupThreads / 32; ++i) value = max(value, shared[i]);
  return value;
}

// 8 elements of 2 bytes; those beyond `count` are zero.
__device__ __forceinline__ uint4 LoadChunk(const std::byte* src, int count) {
  if (count >= kChunk) return Load16(src);
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) {
      words[i / 2] |=
          static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(src)[i])
          << (16 * (i % 2));
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ void StoreChunk(std::byte* dst, const uint2& codes,
                                           int count) {
  if (count >= kChunk) {
    __stcs(reinterpret_cast<uint2*>(dst), codes);
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) {
      dst[i] =
          static_cast<std::byte>((i < 4 ? codes.x : codes.y) >> (8 * (i % 4)));
    }
  }
}

__device__ __forceinline__ uint32_t QuantiseWord(tensor::DType from,
                                                 uint32_t word, float inverse,
                                                 bool special) {
  if (from == tensor::DType::kBF16) {
    return QuantisePair(word << 16, word & 0xffff0000u, inverse, special);
  }
  return QuantisePair(F16ToBits(word & 0xffffu), F16ToBits(word >> 16), inverse,
                      special);
}

// F16, and blocks that are not finite: apart, so that their instructions are
// not issued for all others.
static __device__ __noinline__ uint2 QuantiseAnyChunk(tensor::DType from,
                                                      uint4 data, float inverse,
                                                      bool special) {
  return {QuantiseWord(from, data.x, inverse, special) |
              QuantiseWord(from, data.y, inverse, special) << 16,
          QuantiseWord(from, data.z, inverse, special) |
              QuantiseWord(from, data.w, inverse, special) << 16};
}

__device__ __forceinline__ uint2 QuantiseChunk(tensor::DType from,
                                               const uint4& data, float inverse,
                                               bool special) {
  if (special || from != tensor::DType::kBF16) {
    return QuantiseAnyChunk(from, data, inverse, special);
  }
  constexpr tensor::DType kBf16 = tensor::DType::kBF16;
  return {QuantiseWord(kBf16, data.x, inverse, false) |
              QuantiseWord(kBf16, data.y, inverse, false) << 16,
          QuantiseWord(kBf16, data.z, inverse, false) |
              QuantiseWord(kBf16, data.w, inverse, false) << 16};
}

// Largest magnitude of 2-byte floats, as the bits of one: their order is that
// of unsigned numbers, NaN above infinity.
__device__ __forceinline__ uint32_t MaxMagnitude(const uint4& data,
                                                 uint32_t pair) {
  pair = __vmaxu2(pair, data.x & 0x7fff7fffu);
  pair = __vmaxu2(pair, data.y & 0x7fff7fffu);
  pair = __vmaxu2(pair, data.z & 0x7fff7fffu);
  return __vmaxu2(pair, data.w & 0x7fff7fffu);
}

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_QUANTISE_CUH_
