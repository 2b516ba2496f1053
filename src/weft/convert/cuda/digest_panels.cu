// Digests of whole tiles that stay where they are, which is what nearly all of
// resident memory is.
//
// A warp takes a tile in panels of 128 bytes by 32 rows. It loads them as lines
// (8 lanes a row), and sums them up as rows (a lane a row): a row's weights
// then stay in registers, and the words' weights, the same for all lanes, are
// operands from the kernel's parameters, so that 16 bytes cost 8
// multiplications and little else. Chunks take places in shared memory that
// depend on the row, so that neither way meets in a bank. Of one-byte items,
// whose tiles are half a line wide, two tiles side by side share a panel.
#include <cstddef>
#include <cstdint>

#include "weft/convert/cuda/digest_tile.cuh"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/stage.cuh"
#include "weft/convert/cuda/tile_sum.cuh"
#include "weft/convert/cuda/walk.cuh"

namespace weft::convert::cuda {
namespace {

// Fewer threads than in other kernels, with twice the registers.
constexpr int kPanelThreads = 512;
constexpr int kPanelWarps = kPanelThreads / 32;
constexpr int kPanelBytes = 128;  // of a row
constexpr int kPanelRows = 32;
constexpr int kPanelChunks = kPanelBytes / 16;
constexpr int kStepRows = 32 / kPanelChunks;  // that a warp loads at a time
constexpr int kPanelSteps = kPanelRows / kStepRows;
constexpr int kPanelBuffers = 2;
constexpr int kBufferBytes = kPanelRows * kPanelBytes;
constexpr int kPanelStageBytes = kPanelWarps * kPanelBuffers * kBufferBytes;
constexpr int kWordsOfPanel = kPanelBytes / 4;
static_assert(kTileRows == 2 * kPanelRows);

// Of the rows that a lane sums up: `lane` and `lane + 32` of a tile.
struct RowWeights {
  uint64_t of[2][2];  // by half of the tile, by sum

  __device__ __forceinline__ explicit RowWeights(const DigestWeights& weights) {
    const unsigned lane = threadIdx.x % 32;
    for (int half = 0; half < 2; ++half) {
      for (int s = 0; s < 2; ++s) {
        of[half][s] = weights.row[half * kPanelRows + lane][s];
      }
    }
  }
};

// What is known of a panel when its loads have arrived.
struct Panel {
  int64_t value = 0;
  int group = 0;        // words 32 * group and on of the tile's rows
  int half = 0;         // of the tile's rows
  bool narrow = false;  // tiles are half a panel wide: one, or
  bool pair = false;    // two
  bool last = false;    // of its tile
};

// The panels of a warp's tiles, one after another.
class PanelWalk {
 public:
  __device__ __forceinline__ PanelWalk(const Walk& walk, const DigestOp* ops)
      : tiles_(walk, ops) {
    Open();
  }
  __device__ __forceinline__ bool has() const { return tiles_.has(); }
  __device__ __forceinline__ const Panel& panel() const { return panel_; }

  // Begins this lane's loads of the panel into the buffer at `shared`.
  __device__ __forceinline__ void Start(uint32_t shared) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row = lane / kPanelChunks;
    const int chunk = lane % kPanelChunks;
    if (panel_.narrow && !panel_.pair && chunk >= kPanelChunks / 2) return;
    const std::byte* src = src_;
#pragma unroll
    for (int i = 0; i < kPanelSteps; ++i) {
      StartLoadOfLines(shared + (i * kStepRows + row) * kPanelBytes +
                           (chunk ^ (i % 2 * kStepRows + row)) * 16,
                       src);
      src += step_;
    }
  }

  __device__ __forceinline__ void Advance() {
    if (panel_.half == 0) {
      panel_.half = 1;
      src_ += kPanelSteps * step_;
    } else if (panel_.last) {
      tiles_.Advance();
      if (panel_.pair) tiles_.Advance();
      Open();
      return;
    } else {
      panel_.half = 0;
      ++panel_.group;
      src_ += kPanelBytes - kPanelSteps * step_;
    }
    panel_.last = panel_.half == 1 && panel_.group + 1 >= groups_;
  }

 private:
  __device__ __forceinline__ void Open() {
    if (!tiles_.has()) return;
    const DigestOp& op = tiles_.op();
    const TilePart part = PartOf(op, tiles_.index());
    const int lane = static_cast<int>(threadIdx.x % 32);
    groups_ = op.item / 2;
    panel_ = {};
    panel_.value = part.value;
    panel_.narrow = groups_ == 0;
    panel_.pair = panel_.narrow && tiles_.left() > 1;
    src_ = part.data + lane / kPanelChunks * op.row_bytes +
           lane % kPanelChunks * 16;
    step_ = kStepRows * op.row_bytes;
  }

  DigestWalk tiles_;
  Panel panel_;
  const std::byte* src_ = nullptr;  // of this lane's first chunk
  int64_t step_ = 0;
  int groups_ = 0;  // panels across a tile; 0: a half
};

__device__ __forceinline__ uint4 TakeChunk(uint32_t shared, int chunk) {
  const unsigned lane = threadIdx.x % 32;
  const uint32_t at = shared + lane * kPanelBytes +
                      ((static_cast<unsigned>(chunk) ^ lane % 8) * 16);
  uint4 data;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(data.x), "=r"(data.y), "=r"(data.z), "=r"(data.w)
               : "r"(at));
  return data;
}

// Adds to `inner` the weighted words of `kChunks` chunks of this lane's row;
// the first of them is chunk `kFirst` of the panel and word `kWord` of the
// tile.
template <int kFirst, int kChunks, int kWord>
__device__ __forceinline__ void AddWords(uint32_t shared,
                                         const DigestWeights& weights,
                                         uint64_t (&inner)[2]) {
  uint64_t odd[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    const uint4 data = TakeChunk(shared, kFirst + j);
    constexpr int kWords = 4;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const uint32_t* const col = &weights.col[s][kWord + j * kWords];
      inner[s] = MultiplyAdd(data.x, col[0], inner[s]);
      odd[s] = MultiplyAdd(data.y, col[1], odd[s]);
      inner[s] = MultiplyAdd(data.z, col[2], inner[s]);
      odd[s] = MultiplyAdd(data.w, col[3], odd[s]);
    }
  }
  inner[0] += odd[0];
  inner[1] += odd[1];
}

__device__ __forceinline__ void AddRow(const uint64_t (&inner)[2],
                                       const RowWeights& rows, int half,
                                       TileSum& sum) {
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const uint64_t weight = half == 0 ? rows.of[0][s] : rows.of[1][s];
    sum.sum[s] = MultiplyAdd64(weight, inner[s], sum.sum[s]);
  }
}

__device__ __forceinline__ void AddPanel(const Panel& panel, uint32_t shared,
                                         const DigestWeights& weights,
                                         const RowWeights& rows,
                                         TileSum (&sums)[2]) {
  constexpr int kHalf = kPanelChunks / 2;
  uint64_t inner[2] = {0, 0};
  if (panel.narrow) {
    AddWords<0, kHalf, 0>(shared, weights, inner);
    AddRow(inner, rows, panel.half, sums[0]);
    if (!panel.pair) return;
    uint64_t right[2] = {0, 0};
    AddWords<kHalf, kHalf, 0>(shared, weights, right);
    AddRow(right, rows, panel.half, sums[1]);
    return;
  }
  // Spelt out, so that words' weights are operands with known addresses.
  switch (panel.group) {
    case 0:
      AddWords<0, kPanelChunks, 0>(shared, weights, inner);
      break;
    case 1:
      AddWords<0, kPanelChunks, kWordsOfPanel>(shared, weights, inner);
      break;
    case 2:
      AddWords<0, kPanelChunks, 2 * kWordsOfPanel>(shared, weights, inner);
      break;
    default:
      AddWords<0, kPanelChunks, 3 * kWordsOfPanel>(shared, weights, inner);
  }
  AddRow(inner, rows, panel.half, sums[0]);
}

__global__ void __launch_bounds__(kPanelThreads, 1)
    PanelKernel(const Tile* tiles, uint32_t count, const uint32_t* stop,
                const DigestOp* ops,
                const __grid_constant__ DigestWeights weights,
                DigestValue* values) {
  extern __shared__ uint4 dynamic[];
  uint32_t now = static_cast<uint32_t>(__cvta_generic_to_shared(dynamic)) +
                 threadIdx.x / 32 * (kPanelBuffers * kBufferBytes);
  uint32_t then = now + kBufferBytes;
  const RowWeights rows(weights);
  const Walk walk(tiles, count, stop, kPanelWarps, threadIdx.x / 32);
  PanelWalk next(walk, ops);
  if (!next.has()) return;
  next.Start(now);
  CommitLoads();
  TileSum sums[2];
  for (bool more = true; more;) {
    const Panel panel = next.panel();
    next.Advance();
    more = next.has();
    if (more) next.Start(then);
    CommitLoads();
    WaitForAllButLast();
    __syncwarp();  // each lane reads what others have loaded
    AddPanel(panel, now, weights, rows, sums);
    if (panel.last) {
      AddToValue(values, panel.value, sums[0]);
      if (panel.pair) AddToValue(values, panel.value + 1, sums[1]);
      sums[0] = sums[1] = {};
      more = more && !__any_sync(~0u, walk.Stopped());
    }
    __syncwarp();  // all have read what the next loads overwrite
    const uint32_t swapped = now;
    now = then;
    then = swapped;
  }
  WaitForLoads();
}

}  // namespace

cudaError_t PreparePanels() {
  return cudaFuncSetAttribute(PanelKernel,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kPanelStageBytes);
}

cudaError_t LaunchPanels(const Grid& grid, const TileList& list,
                         const DigestOp* ops, const DigestSink& sink) {
  PanelKernel<<<BlocksFor(grid, list, kPanelWarps), kPanelThreads,
                kPanelStageBytes, grid.stream>>>(
      list.tiles, list.count, grid.stop, ops, WeightsOf(sink.constants),
      sink.values);
  return cudaGetLastError();
}

}  // namespace weft::convert::cuda
