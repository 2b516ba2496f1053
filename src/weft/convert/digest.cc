#include "weft/convert/digest.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace weft::convert {
namespace {

// The finaliser of SplitMix64: a bijection on 64-bit integers.
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

constexpr uint64_t kGamma = 0x9e3779b97f4a7c15u;
// Keeps the tile weights apart from the row and column weights of one seed:
// the ASCII bytes "weftTile".
constexpr uint64_t kTileDomain = 0x7765667454696c65u;

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += kGamma;
    return Mix(state_);
  }

 private:
  uint64_t state_;
};

// Fills `weights` in order with odd values, drawing again on a repeat.
template <typename T, size_t N>
void FillOddDistinct(SplitMix64& source, std::array<T, N>& weights) {
  for (size_t i = 0; i < N;) {
    // The upper bits of a 64-bit draw, so that both widths read one stream.
    const T weight = static_cast<T>(
        (source.Next() >> (64 - 8 * static_cast<int>(sizeof(T)))) | 1);
    const auto end = weights.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(weights.begin(), end, weight) == end) weights[i++] = weight;
  }
}

}  // namespace

std::string ToHex(const DigestValue& value) {
  return absl::StrFormat("%016x%016x", value.sum[0], value.sum[1]);
}

DigestConstants DigestConstants::FromSeed(uint64_t seed) {
  DigestConstants constants;
  constants.seed = seed;
  SplitMix64 source(seed);
  for (auto& weights : constants.col) FillOddDistinct(source, weights);
  for (auto& weights : constants.row) FillOddDistinct(source, weights);
  return constants;
}

uint64_t TileWeight(uint64_t seed, uint64_t tile_index) {
  return Mix(Mix(seed ^ kTileDomain) + (tile_index + 1) * kGamma) | 1;
}

}  // namespace weft::convert
