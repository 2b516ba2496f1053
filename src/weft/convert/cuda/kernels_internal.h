// Puts one walk of a list of tiles on a stream.
#ifndef WEFT_CONVERT_CUDA_KERNELS_INTERNAL_H_
#define WEFT_CONVERT_CUDA_KERNELS_INTERNAL_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "weft/convert/cuda/descriptor_internal.h"
#include "weft/convert/digest.h"

namespace weft::convert::cuda {

struct TileList {
  const Tile* tiles = nullptr;
  uint32_t count = 0;
};

struct Grid {
  cudaStream_t stream = nullptr;
  int num_sms = 1;
  // Device memory; not zero: no more tiles are to be taken.
  const uint32_t* stop = nullptr;
};

// Thread blocks for a list of which each has `walkers`.
inline unsigned BlocksFor(const Grid& grid, const TileList& list,
                          unsigned walkers) {
  return std::min(static_cast<unsigned>(grid.num_sms),
                  (list.count + walkers - 1) / walkers);
}

// Null where nothing is digested.
struct DigestSink {
  const DigestConstants* constants = nullptr;
  DigestValue* values = nullptr;
};

// Lets the kernels have the shared memory that they need; once a device.
cudaError_t PrepareRows();
cudaError_t PrepareBulk();
cudaError_t PrepareWide();
cudaError_t PrepareElements();
cudaError_t PrepareQuantisers();
cudaError_t PrepareDigests();
cudaError_t PreparePanels();

cudaError_t LaunchRows(const Grid& grid, const TileList& list,
                       const MoveOp* ops);
cudaError_t LaunchBytes(const Grid& grid, const TileList& list,
                        const MoveOp* ops, const Piece* pieces);
// Compute capability 9.0 and up.
cudaError_t LaunchBulk(const Grid& grid, const TileList& list,
                       const Piece* pieces);
// Tiles of kTransposeSide rows, or of kTallRows.
cudaError_t LaunchWide(const Grid& grid, const TileList& list, bool tall,
                       const MoveOp* ops);
cudaError_t LaunchElements(const Grid& grid, const TileList& list,
                           const MoveOp* ops);
cudaError_t LaunchBlocks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const DigestSink& sink);
cudaError_t LaunchHeld(const Grid& grid, const TileList& list,
                       const QuantiseOp* ops, const DigestSink& sink);
// Maxima of all blocks, then their elements; `amax` is zero when it begins.
cudaError_t LaunchMaxima(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, uint32_t* amax);
cudaError_t LaunchChunks(const Grid& grid, const TileList& list,
                         const QuantiseOp* ops, const uint32_t* amax);
struct DigestKind {
  bool whole = false;   // tiles of the lattice, aligned and unchanged
  bool copies = false;  // the ops have destinations
};
// Ops without destinations, whole tiles only, constants given.
cudaError_t LaunchPanels(const Grid& grid, const TileList& list,
                         const DigestOp* ops, const DigestSink& sink);
// Ops with destinations are copied without constants, too.
cudaError_t LaunchDigests(const Grid& grid, const TileList& list,
                          const DigestOp* ops, DigestKind kind,
                          const DigestSink& sink);

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_KERNELS_INTERNAL_H_
