#include "weft/verify/digest_table.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "weft/base/run_threads.h"
#include "weft/tensor/dtype.h"
#include "weft/verify/accumulate.h"

namespace weft::verify {
namespace {

// A worker takes so much memory at a time: enough to make the taking cheap,
// little enough for all to end together.
constexpr int64_t kPartBytes = int64_t{4} << 20;

// Tiles [begin, end) of one fragment's table.
struct Part {
  const MapDigest* fragment = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
};

// All fragments, each with its slice of the table.
std::vector<MapDigest> FragmentsOf(
    const convert::Kernels& kernels, const convert::DigestConstants& constants,
    const manifest::Placement& placement,
    absl::Span<const std::byte* const> stored_bases,
    absl::Span<convert::DigestValue> table) {
  const TableLayout layout = LayOutTables(placement);
  std::vector<MapDigest> fragments;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    const layout::StoredTensor& stored = placement.stored[i];
    if (stored_bases[i] == nullptr) continue;
    for (size_t k = 0; k < stored.fragments.size(); ++k) {
      MapDigest fragment;
      fragment.kernels = &kernels;
      fragment.constants = &constants;
      fragment.map = &stored.fragments[k].map;
      fragment.stored_base = stored_bases[i];
      fragment.item_bytes = static_cast<int>(tensor::ItemBytes(stored.dtype));
      fragment.grid = tensor::TileGrid::Of(fragment.map->box());
      fragment.values =
          table.subspan(static_cast<size_t>(layout.first_value[i][k]),
                        static_cast<size_t>(fragment.grid.num_tiles));
      fragments.push_back(std::move(fragment));
    }
  }
  return fragments;
}

// Whole rows of tiles where they fit, since memory is fastest when it is read
// in order.
std::vector<Part> PartsOf(const std::vector<MapDigest>& fragments) {
  std::vector<Part> parts;
  for (const MapDigest& fragment : fragments) {
    const tensor::TileGrid& grid = fragment.grid;
    if (grid.num_tiles == 0) continue;
    const int64_t tile_bytes =
        tensor::kTileRows * tensor::kTileCols * fragment.item_bytes;
    const int64_t row_tiles =
        grid.tiles.empty() ? 1 : grid.tiles.back().extent();
    int64_t step = std::max<int64_t>(1, kPartBytes / tile_bytes);
    if (step > row_tiles) step -= step % row_tiles;
    for (int64_t begin = 0; begin < grid.num_tiles; begin += step) {
      parts.push_back(
          {&fragment, begin, std::min(begin + step, grid.num_tiles)});
    }
  }
  return parts;
}

}  // namespace

TableLayout LayOutTables(const manifest::Placement& placement) {
  TableLayout layout;
  for (const layout::StoredTensor& stored : placement.stored) {
    std::vector<int64_t>& first = layout.first_value.emplace_back();
    for (const layout::Fragment& fragment : stored.fragments) {
      first.push_back(layout.num_values);
      layout.num_values += tensor::TileGrid::Of(fragment.map.box()).num_tiles;
    }
  }
  return layout;
}

void AccumulateTiles(const convert::Kernels& kernels,
                     const convert::DigestConstants& constants,
                     const layout::IndexMap& map, const std::byte* stored_base,
                     int item_bytes, const tensor::TileGrid& grid,
                     absl::Span<convert::DigestValue> values) {
  const MapDigest digest{.kernels = &kernels,
                         .constants = &constants,
                         .map = &map,
                         .stored_base = stored_base,
                         .item_bytes = item_bytes,
                         .grid = grid,
                         .values = values};
  AccumulateTileRange(digest, 0, tensor::TileGrid::Of(map.box()).num_tiles);
}

void ComputeTables(const convert::Kernels& kernels,
                   const convert::DigestConstants& constants,
                   const manifest::Placement& placement,
                   absl::Span<const std::byte* const> stored_bases,
                   int num_threads, absl::Span<convert::DigestValue> table) {
  std::fill(table.begin(), table.end(), convert::DigestValue());
  const std::vector<MapDigest> fragments =
      FragmentsOf(kernels, constants, placement, stored_bases, table);
  const std::vector<Part> parts = PartsOf(fragments);
  // No two parts share a tile, so the workers never write the same value.
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < parts.size(); i = next++) {
      AccumulateTileRange(*parts[i].fragment, parts[i].begin, parts[i].end);
    }
  };
  base::RunThreads(num_threads, parts.size(), work);
}

}  // namespace weft::verify
