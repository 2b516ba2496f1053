// What lies in device memory of a program: plain structs that the host's
// lowering fills and kernels read. Addresses are a device's.
//
// An op is a regular piece of work, a tile the part of it that a group of
// threads does at a time. Tiles are numbers: `index` is decoded by mixed radix,
// so the list of a regular model is small and a copy of a million irregular
// pieces is no longer than its pieces.
#ifndef WEFT_CONVERT_CUDA_DESCRIPTOR_INTERNAL_H_
#define WEFT_CONVERT_CUDA_DESCRIPTOR_INTERNAL_H_

#include <cstddef>
#include <cstdint>

namespace weft::convert::cuda {

// What a warp reads or writes at once, and a packet on a link.
inline constexpr int kLineBytes = 128;
// Bytes of a tile of contiguous rows, and threads that share a tile.
inline constexpr int64_t kRowTileBytes = 32768;
inline constexpr int kGroupThreads = 256;
inline constexpr int kGroups = 4;  // of a thread block
inline constexpr int kBlockThreads = kGroupThreads * kGroups;
// Elements of a tile of kCast and kStrided; sides of a tile of kTranspose, of
// which the columns are doubled where it is wide and halved for 8-byte
// elements, and the rows are four times as many where it is tall: a column of
// the tile is then 512 bytes of the source and not 128 (docs/numbers.md).
inline constexpr int64_t kElementTile = 8192;
inline constexpr int64_t kTransposeSide = 64;
inline constexpr int64_t kWideCols = 2 * kTransposeSide;
inline constexpr int64_t kTallRows = 4 * kTransposeSide;
inline constexpr int64_t kLongCols = kTransposeSide / 2;
inline constexpr int kMaxPieces = 128;  // of a tile
// Bulk copies take pieces of at least so many bytes, and a tile of them at a
// time, which is a warp's.
inline constexpr int64_t kLeastBulkBytes = 256;
inline constexpr int64_t kBulkTileBytes = 4096;
inline constexpr int kMaxBulkPieces = 32;
// Elements that a group holds in registers, 8 a chunk: a block read once.
inline constexpr int64_t kChunkElements = 8;
inline constexpr int64_t kBlockChunks = 2048;
// Tiles of the digest lattice that a warp takes at a time at most: two of
// one-byte items fill a line. With four, digests of resident memory ran at 0.92
// of a read and not at 0.94 (H200): warps ended further apart.
inline constexpr uint32_t kDigestTiles = 2;

// Of bulk pieces: `index` is the first, `op` how many they are.
struct Tile {
  uint32_t index = 0;
  uint32_t op : 29 = 0;
  uint32_t more : 3 = 0;  // digests: tiles right of it that go with it
};

enum class MoveKind : uint8_t {
  kRows,       // rows of contiguous bytes, unchanged
  kPieces,     // the same, each with addresses of its own
  kCast,       // rows contiguous on both sides, converted
  kTranspose,  // columns contiguous at the destination, rows at the source
  kStrided,    // element by element
};

struct Piece {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  int64_t bytes = 0;
};

// A plane of rows x cols elements, and up to two modes outside of it.
struct MoveOp {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  int64_t rows = 1;
  int64_t cols = 1;  // bytes for kRows
  int64_t src_row_bytes = 0;
  int64_t dst_row_bytes = 0;
  int64_t src_col_bytes = 0;  // kTranspose, kStrided
  int64_t dst_col_bytes = 0;
  int64_t outer_src_bytes[2] = {0, 0};  // [0] is the inner of the two
  int64_t outer_dst_bytes[2] = {0, 0};
  int64_t outer_extent[2] = {1, 1};
  // kPieces: the pieces of its one tile.
  int64_t first_piece = 0;
  int32_t num_pieces = 0;
  uint32_t tile_rows = 1;  // of a tile; the last may have fewer
  uint32_t tile_cols = 1;
  uint32_t row_tiles = 1;  // tiles along the plane's rows and columns
  uint32_t col_tiles = 1;
  MoveKind kind = MoveKind::kRows;
  uint8_t from = 0;  // tensor::DType
  uint8_t to = 0;
  uint8_t transform = 0;  // tensor::Transform
  uint8_t item = 1;       // kTranspose and kStrided of unchanged elements
  bool converts = false;
  bool aligned = false;  // every element at a multiple of its size
  // kRows: everything is a multiple of 16 bytes. kTranspose of unchanged 2-byte
  // elements: 8 of them at a multiple of 16 bytes on both sides, rows and
  // columns multiples of 8.
  bool wide = false;

  int64_t num_tiles() const {
    return outer_extent[0] * outer_extent[1] * row_tiles * col_tiles;
  }
};

// A plane's place in the table of tile digests.
struct Place {
  int64_t first_value = -1;  // -1: no digest
  int64_t values_per_row = 0;
  int32_t row_phase = 0;  // of the plane's first element in its tile
  int32_t col_phase = 0;
};

struct QuantiseOp {
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;
  std::byte* scales = nullptr;
  int64_t src_row_bytes = 0;
  int64_t dst_row_bytes = 0;
  int64_t scale_row_bytes = 0;
  int64_t scale_col_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t block_rows = 1;
  int64_t block_cols = 1;
  int64_t blocks_across = 1;
  // Two passes: each block is cut into chunks of whole rows, or of parts of a
  // row, that are tiles; its maximum is word `first_amax + block`.
  int64_t first_amax = 0;
  int64_t chunk_rows = 0;
  int64_t chunk_cols = 0;
  uint32_t chunks_down = 1;  // of a block
  uint32_t chunks_across = 1;
  Place source_place;
  Place result_place;
  uint8_t from = 0;  // tensor::DType
  bool power_of_two = false;
  uint8_t pad[6] = {};
};

// A plane cut into the tiles of the lattice; with `dst` the values are written
// there too, converted.
struct DigestOp {
  const std::byte* data = nullptr;
  std::byte* dst = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_bytes = 0;
  int64_t col_bytes = 0;
  int64_t dst_row_bytes = 0;
  Place place;
  uint32_t tiles_down = 1;
  uint32_t tiles_across = 1;
  uint8_t item = 1;
  uint8_t from = 0;
  uint8_t to = 0;
  uint8_t transform = 0;
  // Tile rows start at multiples of this (16, 4 or 1), columns side by side;
  // 0 where they do not lie side by side.
  uint8_t alignment = 0;
  bool converts = false;
  uint8_t pad[6] = {};
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_DESCRIPTOR_INTERNAL_H_
