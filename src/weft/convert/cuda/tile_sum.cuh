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
  uint64_t row[2][kTileRows];
};

inline DigestWeights WeightsOf(const DigestConstants* constants) {
  DigestWeights weights{};
  if (constants == nullptr) return weights;
  for (int s = 0; s < 2; ++s) {
    for (int w = 0; w < kMaxWordsPerRow; ++w) {
      weights.col[s][w] = constants->col[s][w];
    }
    for (int r = 0; r < kTileRows; ++r) {
      weights.row[s][r] = constants->row[s][r];
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
    shared.row[i / kTileRows][i % kTileRows] =
        from.row[i / kTileRows][i % kTileRows];
  }
  __syncthreads();
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
    sum[0] += weights.row[0][row] * Weighted(data, col0);
    sum[1] += weights.row[1][row] * Weighted(data, col1);
  }
  __device__ __forceinline__ void Add2(const DigestWeights& weights,
                                       const uint2& data, int row, int word) {
    for (int s = 0; s < 2; ++s) {
      sum[s] += weights.row[s][row] *
                (static_cast<uint64_t>(weights.col[s][word]) * data.x +
                 static_cast<uint64_t>(weights.col[s][word + 1]) * data.y);
    }
  }

 private:
  __device__ __forceinline__ static uint64_t Weighted(const uint4& data,
                                                      const uint4& col) {
    return static_cast<uint64_t>(data.x) * col.x +
           static_cast<uint64_t>(data.y) * col.y +
           static_cast<uint64_t>(data.z) * col.z +
           static_cast<uint64_t>(data.w) * col.w;
  }
};

__device__ __forceinline__ uint64_t WarpSum(uint64_t value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(~0u, value, step);
  }
  return value;
}

__device__ __forceinline__ void AddToValue(DigestValue* values, int64_t tile,
                                           uint64_t sum0, uint64_t sum1) {
  auto* const to = reinterpret_cast<unsigned long long*>(values[tile].sum);
  atomicAdd(to, static_cast<unsigned long long>(sum0));
  atomicAdd(to + 1, static_cast<unsigned long long>(sum1));
}

// Adds what each lane of the warp has to the value of its tile (-1: nothing).
// All lanes call it together.
__device__ __forceinline__ void Flush(DigestValue* values, int64_t tile,
                                      const TileSum& own) {
  unsigned rest = __ballot_sync(~0u, tile >= 0);
  while (rest != 0) {
    const int64_t one = __shfl_sync(~0u, tile, __ffs(rest) - 1);
    const bool mine = tile == one;
    const uint64_t sum0 = WarpSum(mine ? own.sum[0] : 0);
    const uint64_t sum1 = WarpSum(mine ? own.sum[1] : 0);
    if (threadIdx.x % 32 == 0) AddToValue(values, one, sum0, sum1);
    rest &= ~__ballot_sync(~0u, mine);
  }
}

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_TILE_SUM_CUH_
