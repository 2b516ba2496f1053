#include "weft/verify/compare.h"

#include <cassert>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/tensor/tile_grid.h"
#include "weft/verify/tile_walk.h"

namespace weft::verify {
namespace {

absl::Status CheckTableSize(std::string_view whose, size_t num_values,
                            const tensor::TileGrid& grid,
                            const tensor::Box& box) {
  if (static_cast<int64_t>(num_values) == grid.num_tiles) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(whose), " digest table has ", num_values, " values but box ",
      box.ToString(), " meets ", grid.num_tiles, " tiles"));
}

}  // namespace

absl::StatusOr<std::vector<TileMismatch>> CompareTables(
    const tensor::Box& fragment, const tensor::Box& move,
    absl::Span<const convert::DigestValue> expected,
    absl::Span<const convert::DigestValue> got) {
  if (fragment.rank() != move.rank() || !tensor::Contains(fragment, move)) {
    return absl::InvalidArgumentError(
        absl::StrCat("move box ", move.ToString(),
                     " is not inside source fragment ", fragment.ToString()));
  }
  std::vector<TileMismatch> mismatches;
  if (move.empty()) return mismatches;
  const tensor::Box cover = tensor::TileCover(move, fragment);
  const tensor::TileGrid fragment_grid = tensor::TileGrid::Of(fragment);
  const tensor::TileGrid cover_grid = tensor::TileGrid::Of(cover);
  WEFT_RETURN_IF_ERROR(
      CheckTableSize("published", expected.size(), fragment_grid, fragment));
  WEFT_RETURN_IF_ERROR(
      CheckTableSize("received", got.size(), cover_grid, cover));
  ForEachTileRow(cover_grid, [&](const TileCoordinates& tile, int64_t index,
                                 int64_t count) {
    const auto* const said =
        &expected[static_cast<size_t>(fragment_grid.IndexOf(tile))];
    const auto* const found = &got[static_cast<size_t>(index)];
    for (int64_t i = 0; i < count; ++i) {
      if (said[i] == found[i]) continue;
      TileCoordinates at = tile;
      if (!at.empty()) at.back() += i;
      mismatches.push_back({tensor::TileBox(at, fragment), said[i], found[i]});
    }
  });
  return mismatches;
}

std::string DescribeMismatches(std::string_view tensor_name, int64_t src_rank,
                               int64_t num_tiles,
                               absl::Span<const TileMismatch> mismatches) {
  assert(!mismatches.empty());
  const TileMismatch& first = mismatches.front();
  return absl::StrCat("digest mismatch in ", mismatches.size(), " of ",
                      num_tiles, " tiles of \"", std::string(tensor_name),
                      "\": first ", first.tile.ToString(), " from source rank ",
                      src_rank, ", expected ", convert::ToHex(first.expected),
                      " got ", convert::ToHex(first.got));
}

void AddToTensorDigest(uint64_t seed, const tensor::Shape& shape,
                       const tensor::Box& fragment,
                       absl::Span<const convert::DigestValue> table,
                       convert::DigestValue& total) {
  const tensor::Shape tile_shape =
      tensor::TileShape(static_cast<int>(shape.size()));
  const tensor::TileGrid grid = tensor::TileGrid::Of(fragment);
  assert(static_cast<int64_t>(table.size()) == grid.num_tiles);
  ForEachTileRow(
      grid, [&](const TileCoordinates& tile, int64_t index, int64_t count) {
        uint64_t place = 0;  // among the tiles of the whole tensor, row-major
        for (size_t dim = 0; dim < shape.size(); ++dim) {
          const int64_t tiles = base::CeilDiv(shape[dim], tile_shape[dim]);
          place = place * static_cast<uint64_t>(tiles) +
                  static_cast<uint64_t>(tile[dim]);
        }
        const convert::DigestValue* const values =
            &table[static_cast<size_t>(index)];
        for (int64_t i = 0; i < count; ++i) {
          const uint64_t weight =
              convert::TileWeight(seed, place + static_cast<uint64_t>(i));
          for (size_t s = 0; s < 2; ++s)
            total.sum[s] += weight * values[i].sum[s];
        }
      });
}

}  // namespace weft::verify
