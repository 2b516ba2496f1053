// Digest tables: what a publisher prints next to its weights, and what a
// receiver compares with what lies in its own memory.
//
// Every fragment of a source has a table: one DigestValue a tile of the logical
// lattice (convert/digest.h) that meets the fragment's box, of the tile's part
// inside the box, row-major over the grid of tiles. A table of a shard is
// 16 bytes a 64x64 tile: 0.2 % of bf16 bytes. It lies in the publisher's
// registered control buffer and is read by the same transport as the weights.
//
// A receiver that took a sub-box M of a fragment F compares tile by tile. A
// tile that M cuts through is completed by *witnesses*: the rest of tile ∩ F,
// read into scratch and only digested (plan::Witness). So a publisher needs to
// know nothing about its readers, and a reader of any layout can prove what it
// holds.
#ifndef WEFT_VERIFY_DIGEST_TABLE_H_
#define WEFT_VERIFY_DIGEST_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/manifest/placement.h"
#include "weft/tensor/tile_grid.h"

namespace weft::verify {

// Where each fragment's table lies in a rank's digest table area.
struct TableLayout {
  // [stored][fragment] -> index of its first DigestValue.
  std::vector<std::vector<int64_t>> first_value;
  int64_t num_values = 0;
  int64_t size_bytes() const { return num_values * 16; }
};
TableLayout LayOutTables(const manifest::Placement& placement);

// Digests of elements laid out by `map` (the fragment's index map, or a
// restriction of it) in a stored tensor at `stored_base` with items of
// `item_bytes`, accumulated into `values`, the table of grid `grid` (which
// must contain the tiles of map.box()).
void AccumulateTiles(const convert::Kernels& kernels,
                     const convert::DigestConstants& constants,
                     const layout::IndexMap& map, const std::byte* stored_base,
                     int item_bytes, const tensor::TileGrid& grid,
                     absl::Span<convert::DigestValue> values);

// Computes the tables of all fragments of a placement, in TableLayout order,
// into `table`. stored_bases[i] = memory of stored tensor i, or null: its
// tables are left zero. `num_threads` workers; the result does not depend on
// it.
void ComputeTables(const convert::Kernels& kernels,
                   const convert::DigestConstants& constants,
                   const manifest::Placement& placement,
                   absl::Span<const std::byte* const> stored_bases,
                   int num_threads, absl::Span<convert::DigestValue> table);

}  // namespace weft::verify

#endif  // WEFT_VERIFY_DIGEST_TABLE_H_
