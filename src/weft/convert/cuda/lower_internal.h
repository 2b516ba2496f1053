// From a ProgramSpec to descriptors and copies for the copy engines. Plain C++:
// tested without a device by an interpreter of the descriptors.
#ifndef WEFT_CONVERT_CUDA_LOWER_INTERNAL_H_
#define WEFT_CONVERT_CUDA_LOWER_INTERNAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/convert/cuda/costs.h"
#include "weft/convert/cuda/descriptor_internal.h"
#include "weft/convert/cuda/program.h"

namespace weft::convert::cuda {

// One call of a copy engine: depth x height rows of `width` bytes. Pitches in
// bytes; slices are whole numbers of pitches apart, on both sides.
struct EngineCopy {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  int64_t width = 0;
  int64_t height = 1;
  int64_t depth = 1;
  int64_t src_pitch = 0;
  int64_t dst_pitch = 0;
  int64_t src_slice_rows = 0;  // rows of a pitch from slice to slice
  int64_t dst_slice_rows = 0;
  int64_t bytes() const { return width * height * depth; }
};

struct Lowered {
  std::vector<EngineCopy> engine;
  std::vector<Piece> pieces;
  // Addresses and lengths multiples of 16, at most kBulkTileBytes long.
  std::vector<Piece> bulk_pieces;
  std::vector<MoveOp> moves;
  std::vector<Tile> row_tiles;      // kRows that are wide
  std::vector<Tile> byte_tiles;     // kRows that are not, kPieces
  std::vector<Tile> bulk_tiles;     // of bulk_pieces
  std::vector<Tile> wide_tiles;     // kTranspose that is wide
  std::vector<Tile> tall_tiles;     // and tall
  std::vector<Tile> element_tiles;  // the other kinds
  std::vector<QuantiseOp> quantisations;
  std::vector<Tile> block_tiles;  // one block a tile, read once: regular ones
  std::vector<Tile> held_tiles;   // and the others
  std::vector<Tile> chunk_tiles;  // one chunk a tile, read in two passes
  int64_t num_amax = 0;
  std::vector<DigestOp> digests;
  // Of ops with dst, which are part of the copying; and of ops without, after
  // everything else. Whole tiles of the lattice, aligned and unchanged, apart
  // from parts of one.
  std::vector<Tile> fused_whole_tiles;
  std::vector<Tile> fused_part_tiles;
  std::vector<Tile> digest_whole_tiles;
  std::vector<Tile> digest_part_tiles;
  int64_t num_values = 0;
  ProgramInfo info;
};

// The lists of tiles, by number.
enum List {
  kRows,
  kBytes,
  kBulk,
  kWide,
  kTall,
  kElements,
  kFusedWhole,
  kFusedParts,
  kBlocks,
  kHeld,
  kChunks,
  kDigestWhole,
  kDigestParts,
  kNumLists
};
std::array<const std::vector<Tile>*, kNumLists> ListsOf(const Lowered& lowered);

inline Tile MakeTile(size_t op, int64_t index, int64_t more = 0) {
  Tile tile;
  tile.op = static_cast<uint32_t>(op) & ((uint32_t{1} << 29) - 1);
  tile.index = static_cast<uint32_t>(index);
  tile.more = static_cast<uint32_t>(more) & 7u;
  return tile;
}

// kInvalidArgument with all faults.
absl::StatusOr<Lowered> Lower(const ProgramSpec& spec,
                              const ProgramOptions& options,
                              const Costs& costs);

// The parts of Lower.
void LowerCopy(const StridedCopy& copy, CopyWay way, const Costs& costs,
               Lowered& lowered);
// Packs the pieces gathered so far into ops and bulk tiles; once, after the
// last copy.
void PackPieces(const Costs& costs, Lowered& lowered);
void LowerQuantisation(const Quantisation& work, Lowered& lowered);
void LowerDigest(const Digest& digest, Lowered& lowered);
// A copy of at most two modes whose source is digested: in one pass if both
// sides are aligned, else a copy and a digest.
void LowerDigestedCopy(const Copy& copy, CopyWay way, const Costs& costs,
                       Lowered& lowered);

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_LOWER_INTERNAL_H_
