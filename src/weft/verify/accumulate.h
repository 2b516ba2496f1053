// Digests of part of an index map. Internal to verify.
#ifndef WEFT_VERIFY_ACCUMULATE_H_
#define WEFT_VERIFY_ACCUMULATE_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/tile_grid.h"

namespace weft::verify {

// A map over stored memory, and the table that its digests go to.
struct MapDigest {
  const convert::Kernels* kernels = nullptr;
  const convert::DigestConstants* constants = nullptr;
  const layout::IndexMap* map = nullptr;
  const std::byte* stored_base = nullptr;
  int item_bytes = 0;
  tensor::TileGrid grid;  // of `values`; contains the tiles of the map's box
  absl::Span<convert::DigestValue> values;
};

// Adds the digests of tiles [begin, end) of TileGrid::Of(map.box()), in
// row-major order. Ranges that do not overlap may run at the same time.
void AccumulateTileRange(const MapDigest& digest, int64_t begin, int64_t end);

}  // namespace weft::verify

#endif  // WEFT_VERIFY_ACCUMULATE_H_
