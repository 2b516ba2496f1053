// The digest of convert/digest.h on the device: its weights in shared memory,
// and sums of a warp's threads added to the values of tiles.
#ifndef WEFT_CONVERT_CUDA_TILE_SUM_CUH_
#define WEFT_CONVERT_CUDA_TILE_SUM_CUH_

#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"
#include "weft/convert/digest.h"
#include "weft/tensor/tile_grid.h"

namespace weft::convert::cuda {

inline constexpr int kTileRows = static_cast<int>(tensor::kTileRows);
inline constexpr int kTileCols = static_cast<int>(tensor::kTileCols);

// A kernel's parameter: 2 KiB that need no buffer of their own.
struct DigestWeights {
  uint32_t col[2][kMaxWordsPerRow];
  uint64_t row[kTileRows][2];
};

inline DigestWeights WeightsOf(const DigestConstants* constants) {
  DigestWeights weights{};
  if (constants == nullptr) return weights;
  for (int s = 0; s < 2; ++s) {
    for (int w = 0; w < kMaxWordsPerRow; ++w) {
      weights.col[s][w] = constants->col[s][w];
    }
    for (int r = 0; r < kTileRows; ++r) {
      weights.row[r][s] = constants->row[s][r];
    }
  }
  return weights;
}

__device__ __forceinline__ void LoadWeights(const DigestWeights& from,
                                            DigestWeights& shared) {
  for (unsigned i = threadIdx.x; i < 2 * kMaxWordsPerRow; i += blockDim.x) {
    shared.col[i / kMaxWordsPerRow][i % kMaxWordsPerRow] =
        from.col[i / kMaxWordsPerRow][i % kMaxWordsPerRow];
  }
  for (unsigned i = threadIdx.x; i < 2 * kTileRows; i += blockDim.x) {
    shared.row[i / 2][i % 2] = from.row[i / 2][i % 2];
  }
  __syncthreads();
}

// a * b + c with 32-bit factors: written out, since the compiler multiplies
// what it has widened as 64-bit numbers.
__device__ __forceinline__ uint64_t MultiplyAdd(uint32_t a, uint32_t b,
                                                uint64_t c) {
  uint64_t result;
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(result) : "r"(a), "r"(b), "l"(c));
  return result;
}

// a * b + c mod 2^64.
__device__ __forceinline__ uint64_t MultiplyAdd64(uint64_t a, uint64_t b,
                                                  uint64_t c) {
  const auto a_low = static_cast<uint32_t>(a);
  const auto b_low = static_cast<uint32_t>(b);
  const uint64_t low = MultiplyAdd(a_low, b_low, c);
  const uint32_t high = static_cast<uint32_t>(low >> 32) +
                        a_low * static_cast<uint32_t>(b >> 32) +
                        static_cast<uint32_t>(a >> 32) * b_low;
  return static_cast<uint64_t>(high) << 32 | static_cast<uint32_t>(low);
}

struct TileSum {
  uint64_t sum[2] = {0, 0};

  // 4 words of row `row` of a tile, the first of which is word `word`.
  __device__ __forceinline__ void Add4(const DigestWeights& weights,
                                       const uint4& data, int row, int word) {
    const uint4 col0 = *reinterpret_cast<const uint4*>(&weights.col[0][word]);
    const uint4 col1 = *reinterpret_cast<const uint4*>(&weights.col[1][word]);
    AddRow(weights, data, col0, col1, row);
  }
  __device__ __forceinline__ void AddRow(const DigestWeights& weights,
                                         const uint4& data, const uint4& col0,
                                         const uint4& col1, int row) {
    const ulonglong2 weight =
        *reinterpret_cast<const ulonglong2*>(weights.row[row]);
    sum[0] = MultiplyAdd64(weight.x, Weighted(data, col0), sum[0]);
    sum[1] = MultiplyAdd64(weight.y, Weighted(data, col1), sum[1]);
  }
  __device__ __forceinline__ void Add2(const DigestWeights& weights,
                                       const uint2& data, int row, int word) {
    for (int s = 0; s < 2; ++s) {
      sum[s] = MultiplyAdd64(
          weights.row[row][s],
          MultiplyAdd(weights.col[s][word], data.x,
                      MultiplyAdd(weights.col[s][word + 1], data.y, 0)),
          sum[s]);
    }
  }

 private:
  __device__ __forceinline__ static uint64_t Weighted(const uint4& data,
                                                      const uint4& col) {
    return MultiplyAdd(
        data.x, col.x,
        MultiplyAdd(data.y, col.y,
                    MultiplyAdd(data.z, col.z, MultiplyAdd(data.w, col.w, 0))));
  }
};

// Adds the warp's sums to the value of one tile: the lower half of the lanes
// sums up the first, the upper half the second. All lanes together.
__device__ __forceinline__ void AddToValue(DigestValue* values, int64_t tile,
                                           const TileSum& own) {
  const unsigned lane = threadIdx.x % 32;
  const bool upper = lane >= 16;
  uint64_t mine = upper ? own.sum[1] : own.sum[0];
  const uint64_t other = upper ? own.sum[0] : own.sum[1];
  mine += __shfl_xor_sync(~0u, other, 16);
#pragma unroll
  for (int step = 8; step > 0; step /= 2) {
    mine += __shfl_xor_sync(~0u, mine, step);
  }
  if (lane % 16 == 0) {
    auto* const to =
        reinterpret_cast<unsigned long long*>(&values[tile].sum[upper ? 1 : 0]);
    atomicAdd(to, static_cast<unsigned long long>(mine));
  }
}

// Adds what each lane of the warp has to the value of its tile (-1: nothing).
// All lanes call it together.
__device__ __forceinline__ void Flush(DigestValue* values, int64_t tile,
                                      const TileSum& own) {
  unsigned rest = __ballot_sync(~0u, tile >= 0);
  while (rest != 0) {
    const int64_t one = __shfl_sync(~0u, tile, __ffs(rest) - 1);
    const bool mine = tile == one;
    AddToValue(values, one, mine ? own : TileSum{});
    rest &= ~__ballot_sync(~0u, mine);
  }
}

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_TILE_SUM_CUH_
