// Comparing what a receiver holds with what the publisher said.
#ifndef WEFT_VERIFY_COMPARE_H_
#define WEFT_VERIFY_COMPARE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/tensor/box.h"

namespace weft::verify {

// One tile of a source fragment that did not arrive as it was published.
struct TileMismatch {
  tensor::Box tile;  // logical coordinates, clipped to the fragment
  convert::DigestValue expected;
  convert::DigestValue got;
  friend bool operator==(const TileMismatch&, const TileMismatch&) = default;
};

// Compares the tiles of a move of box `move` out of a source fragment of box
// `fragment`.
//   expected: the fragment's published table, over TileGrid::Of(fragment)
//   got:      digests of the move and its witnesses, accumulated over
//             TileGrid::Of(TileCover(move, fragment))
// Returns the tiles that differ, in the grid's order; an empty move has none.
// kInvalidArgument when `move` is not inside `fragment` or a table has another
// size than its grid.
absl::StatusOr<std::vector<TileMismatch>> CompareTables(
    const tensor::Box& fragment, const tensor::Box& move,
    absl::Span<const convert::DigestValue> expected,
    absl::Span<const convert::DigestValue> got);

// The sentence for a person, of the mismatches (at least one) among
// `num_tiles` compared tiles:
//   digest mismatch in 3 of 12 tiles of "model.layers.3.mlp.down_proj.weight":
//   first [64,128)x[0,64) from source rank 2, expected <hex> got <hex>
std::string DescribeMismatches(std::string_view tensor_name, int64_t src_rank,
                               int64_t num_tiles,
                               absl::Span<const TileMismatch> mismatches);

// Adds one fragment's part of the digest of a whole tensor, which people are
// shown: the sum over the tiles of the tensor of TileWeight(seed, tile) * d.
// `table` is over TileGrid::Of(fragment). Over fragments that cover the tensor
// once, the total does not depend on how it was cut. Replicas must be counted
// once. Requires that `fragment` lies within `shape` and fits `table`.
void AddToTensorDigest(uint64_t seed, const tensor::Shape& shape,
                       const tensor::Box& fragment,
                       absl::Span<const convert::DigestValue> table,
                       convert::DigestValue& total);

}  // namespace weft::verify

#endif  // WEFT_VERIFY_COMPARE_H_
