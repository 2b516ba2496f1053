// Puts one walk of a list of tiles on a stream. `counter` is zero when it
// begins.
#ifndef WEFT_CONVERT_CUDA_KERNELS_INTERNAL_H_
#define WEFT_CONVERT_CUDA_KERNELS_INTERNAL_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"
#include "weft/convert/digest.h"

namespace weft::convert::cuda {

struct TileList {
  const Tile* tiles = nullptr;
  uint32_t count = 0;
  uint32_t* counter = nullptr;
};

struct Grid {
  cudaStream_t stream = nullptr;
  int num_sms = 1;
};

// Null where nothing is digested.
struct DigestSink {
  const DigestConstants* constants = nullptr;
  DigestValue* values = nullptr;
};

// Lets the kernels have the shared memory that they need; once a device.
cudaError_t PrepareKernels();

cudaError_t LaunchMoves(const Grid& grid, const TileList& list,
                        const MoveOp* ops, const Piece* pieces);
cudaError_t LaunchBlocks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const DigestSink& sink);
// Maxima of all blocks, then their elements; `amax` is zero when it begins.
cudaError_t LaunchMaxima(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, uint32_t* amax);
cudaError_t LaunchChunks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const uint32_t* amax);
// `copies`: the ops have destinations, and are copied without constants too.
cudaError_t LaunchDigests(const Grid& grid, const TileList& list,
                          const DigestOp* ops, bool copies,
                          const DigestSink& sink);

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_KERNELS_INTERNAL_H_
