#include "weft/convert/digest.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "weft/convert/kernel.h"

namespace weft::convert {
namespace {

// Pinned by a separate computation of the definition. These numbers are part
// of format version 1: a change breaks every publisher and receiver that do
// not change together.
struct Golden {
  uint64_t seed;
  uint32_t col_first[2], col_last[2];
  uint64_t row_first[2], row_last[2];
  // Over col[0], col[1], row[0], row[1]: f = f * 0x100000001b3 + weight.
  uint64_t fold;
  uint64_t tile_weight_0, tile_weight_1, tile_weight_2_40;
  // Of the u16 tile with value (1009 r + 31 c + 5) mod 2^16.
  const char* tile;
};

constexpr Golden kGolden[] = {
    {.seed = 0,
     .col_first = {0xe220a839, 0x9899202f},
     .col_last = {0x12d05c41, 0x5a5832bb},
     .row_first = {0xcbdc6d34b7c7534d, 0x3ccd39a590b78295},
     .row_last = {0x032cd31b757b30bb, 0xcee7f6ce76c24791},
     .fold = 0x2a2c23322b4da156,
     .tile_weight_0 = 0xc29296875f64f617,
     .tile_weight_1 = 0x1d25564fb86406bf,
     .tile_weight_2_40 = 0x4ed3bddf30d10f57,
     .tile = "4b6805e2dc6db7cc500328a3735c6f38"},
    {.seed = 0x0123456789abcdef,
     .col_first = {0x157a3807, 0xd4302d79},
     .col_last = {0x17588717, 0x293d194f},
     .row_first = {0x4b2a0d3ead6dd455, 0x2c1b09c5a54750c7},
     .row_last = {0x6227d6a6980ddd93, 0x1d0195209d7a7cc7},
     .fold = 0xfbfea569c09520a2,
     .tile_weight_0 = 0x23ac68df94ab22a7,
     .tile_weight_1 = 0x98acbe6ba7727b1d,
     .tile_weight_2_40 = 0xb4a88a39d2df117b,
     .tile = "183c86e0fca22fc0493636fe59d434b8"}};

TEST(DigestConstantsTest, NeverChange) {
  for (const Golden& golden : kGolden) {
    const DigestConstants constants = DigestConstants::FromSeed(golden.seed);
    EXPECT_EQ(constants.seed, golden.seed);
    uint64_t fold = 0;
    for (size_t s = 0; s < 2; ++s) {
      EXPECT_EQ(constants.col[s].front(), golden.col_first[s]);
      EXPECT_EQ(constants.col[s].back(), golden.col_last[s]);
      EXPECT_EQ(constants.row[s].front(), golden.row_first[s]);
      EXPECT_EQ(constants.row[s].back(), golden.row_last[s]);
      for (const uint32_t weight : constants.col[s]) {
        fold = fold * 0x100000001b3 + weight;
      }
    }
    for (size_t s = 0; s < 2; ++s) {
      for (const uint64_t weight : constants.row[s]) {
        fold = fold * 0x100000001b3 + weight;
      }
    }
    EXPECT_EQ(fold, golden.fold);
    EXPECT_EQ(TileWeight(golden.seed, 0), golden.tile_weight_0);
    EXPECT_EQ(TileWeight(golden.seed, 1), golden.tile_weight_1);
    EXPECT_EQ(TileWeight(golden.seed, uint64_t{1} << 40),
              golden.tile_weight_2_40);
  }
}

TEST(DigestConstantsTest, TileDigestNeverChanges) {
  std::vector<uint16_t> tile;
  for (int r = 0; r < 64; ++r) {
    for (int c = 0; c < 64; ++c) {
      tile.push_back(static_cast<uint16_t>(1009 * r + 31 * c + 5));
    }
  }
  for (const Golden& golden : kGolden) {
    const DigestConstants constants = DigestConstants::FromSeed(golden.seed);
    for (const Kernels* kernels : {&ReferenceKernels(), &CpuKernels()}) {
      DigestValue value;
      kernels->DigestBand(constants,
                          reinterpret_cast<const std::byte*>(tile.data()), 128,
                          64, 64, 2, 0, 0, absl::MakeSpan(&value, 1));
      EXPECT_EQ(ToHex(value), golden.tile) << kernels->name();
    }
  }
}

TEST(DigestConstantsTest, AreOddAndDifferent) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const DigestConstants constants = DigestConstants::FromSeed(seed);
    for (size_t s = 0; s < 2; ++s) {
      const std::set<uint32_t> cols(constants.col[s].begin(),
                                    constants.col[s].end());
      const std::set<uint64_t> rows(constants.row[s].begin(),
                                    constants.row[s].end());
      ASSERT_EQ(cols.size(), constants.col[s].size()) << "seed " << seed;
      ASSERT_EQ(rows.size(), constants.row[s].size()) << "seed " << seed;
      for (const uint32_t weight : cols) ASSERT_EQ(weight % 2, 1u);
      for (const uint64_t weight : rows) ASSERT_EQ(weight % 2, 1u);
    }
    ASSERT_EQ(TileWeight(seed, seed) % 2, 1u);
  }
}

TEST(DigestConstantsTest, DependOnTheSeed) {
  const DigestConstants a = DigestConstants::FromSeed(1);
  const DigestConstants b = DigestConstants::FromSeed(2);
  EXPECT_NE(a.col, b.col);
  EXPECT_NE(a.row, b.row);
  EXPECT_NE(a.col[0], a.col[1]);
  EXPECT_NE(a.row[0], a.row[1]);
  EXPECT_NE(TileWeight(1, 5), TileWeight(2, 5));
}

TEST(DigestValueTest, HexHasBothSumsWithLeadingZeros) {
  DigestValue value;
  value.sum[0] = 0x1f;
  value.sum[1] = 0xfedcba9876543210;
  EXPECT_EQ(ToHex(value), "000000000000001ffedcba9876543210");
}

}  // namespace
}  // namespace weft::convert
