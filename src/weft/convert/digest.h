// The digest: what it is, and why the failures we fear cannot pass it.
//
// Notation. A logical tensor is covered by the fixed lattice of tiles of
// tensor/tile_grid.h (64 x 64, aligned to the *logical* origin), so that every
// party cuts the same tiles whatever its sharding. Within a tile an element
// has row r and column c and a bit pattern v of `item` bytes, read as an
// unsigned little-endian integer; a 64-bit element counts as two 32-bit ones
// at columns 2c and 2c+1. With odd 32-bit weights C[s][w] (w = 4-byte word of
// the row) and odd 64-bit weights R[s][r], s = 0,1:
//
//   d_s(tile) = sum over its elements of
//               R[s][r] * C[s][c*item/4] * v * 2^(8*(c*item mod 4))   mod 2^64
//
// that is: the row is read as 32-bit words, word w is weighted by C[s][w], the
// row's sum by R[s][r]. Bytes of the word that belong to absent elements count
// as zero. So the digest is additive: that of a tile is the sum of those of
// any partition of its elements, in any order; shards add up.
//
// What passes unseen. A fault changes the words of a tile by e[r][w], |e| <
// 2^32, chosen without knowing the seed (swapped rows, a dropped tile, which
// leaves the old bytes, another tile in its place, a flipped bit). With
// X_r = sum_w C[w] e[r][w], sum d changes by D = sum_r R[r] X_r, and a fault
// passes that sum if D = 0 mod 2^64. Let v2 be the power of two in a number.
//
// * Always seen, by each sum, since odd factors keep v2: a change within one
//   word (v2(D) = v2(e) < 32). And two words of one row swapped: weights
//   differ, so 0 < |C[w] - C[w']| * |e| < 2^64.
// * Any other fault. Take a row with e != 0 and let j = min_w v2(e[w]) <= 31.
//   Given all other weights, X = 0 mod 2^(j+m) leaves C[w] one residue
//   mod 2^m, of which 2^(m-1) are odd:
//     P(2^(j+m) divides X) <= 2^-(m-1) for 1 <= m <= 32, so P(X = 0) <= 2^-31.
//   Given X and the other rows, D = 0 fixes the odd R[r] mod 2^(64-v2(X)):
//     P(D = 0 | X) <= 2^-(63-v2(X)).
//   Together P(D = 0) <= 2^-31 + 31 * 2^(j-63). That is below 2^-30 for
//   j <= 26, and 33 * 2^-32 < 2^-26 at worst: j = 31, when no bit changed but
//   the top bits of words (signs).
// * The two sums have independent weights: a corrupted tile passes both with
//   P < 2^-60, or < 2^-52 in that worst case.
// * Odd weights cost one bit in these bounds against arbitrary ones (a weight
//   has 2^31 values, and the last step loses one of 64 bits); they buy the
//   certainty of the first point. That weights are drawn again until they
//   differ changes a probability by less than a factor 1 + 2^-23.
//
// The seed is part of the version, so a systematic error does not meet the
// same weights twice. It is not a secret: the digest guards against faults,
// not against an adversary who can write the publisher's memory.
#ifndef WEFT_CONVERT_DIGEST_H_
#define WEFT_CONVERT_DIGEST_H_

#include <array>
#include <cstdint>
#include <string>

#include "weft/tensor/tile_grid.h"

namespace weft::convert {

inline constexpr int kMaxWordsPerRow =
    static_cast<int>(tensor::kTileCols) * 8 / 4;

struct DigestValue {
  uint64_t sum[2] = {0, 0};
  DigestValue& operator+=(const DigestValue& other) {
    sum[0] += other.sum[0];
    sum[1] += other.sum[1];
    return *this;
  }
  friend bool operator==(const DigestValue&, const DigestValue&) = default;
};

// 32 hex digits.
std::string ToHex(const DigestValue& value);

struct DigestConstants {
  uint64_t seed = 0;
  // C[s][w]; odd, pairwise different within s.
  alignas(64) std::array<std::array<uint32_t, kMaxWordsPerRow>, 2> col{};
  // R[s][r]; odd, pairwise different within s.
  alignas(64) std::array<std::array<uint64_t, tensor::kTileRows>, 2> row{};

  // Derived from the seed by SplitMix64: col[0], col[1], row[0], row[1] in
  // turn take the upper 32 or 64 bits of each draw, made odd, and draw again
  // on a repeat within the array. Same seed, same constants, on every machine
  // and in every release of format version 1 (pinned in digest_test.cc).
  static DigestConstants FromSeed(uint64_t seed);
};

// Odd 64-bit weight of tile `tile_index` of a tensor: the tensor digest that
// people are shown is sum_t weight_t * d(tile_t).
uint64_t TileWeight(uint64_t seed, uint64_t tile_index);

}  // namespace weft::convert

#endif  // WEFT_CONVERT_DIGEST_H_
