#include "weft/verify/compare.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/verify/digest_table.h"
#include "weft/verify/testing/oracle.h"

namespace weft::verify {
namespace {

using convert::DigestConstants;
using convert::DigestValue;
using layout::IndexMap;
using tensor::Box;
using tensor::Range;
using ::testing::HasSubstr;

Box MakeBox(const std::vector<Range>& ranges) {
  return Box::Make(ranges).value();
}

// A tensor of 16-bit elements, stored whole, row-major.
struct Whole {
  explicit Whole(std::vector<int64_t> shape_in)
      : shape(std::move(shape_in)), box(Box::OfShape(shape).value()) {
    std::mt19937_64 random(11);
    values.resize(static_cast<size_t>(box.num_elements()));
    for (uint16_t& value : values) value = static_cast<uint16_t>(random());
  }
  IndexMap MapOf(const Box& part) const {
    std::vector<int64_t> origin;
    for (const Range& range : part.ranges()) origin.push_back(range.begin);
    return IndexMap::RowMajor(part, shape, origin).value();
  }
  // Table of the tiles that meet `table_box`, of the elements of `part`.
  void AddTo(const Box& part, const Box& table_box,
             std::vector<DigestValue>& table) const {
    AccumulateTiles(convert::CpuKernels(), DigestConstants::FromSeed(3),
                    MapOf(part),
                    reinterpret_cast<const std::byte*>(values.data()), 2,
                    tensor::TileGrid::Of(table_box), absl::MakeSpan(table));
  }
  std::vector<DigestValue> TableOf(const Box& part) const {
    std::vector<DigestValue> table(testing::NumTiles(part));
    AddTo(part, part, table);
    return table;
  }

  std::vector<int64_t> shape;
  Box box;
  std::vector<uint16_t> values;
};

// What a receiver of `move` gathers: the move and the witnesses around it.
std::vector<DigestValue> Received(const Whole& memory, const Box& fragment,
                                  const Box& move) {
  const Box cover = tensor::TileCover(move, fragment);
  std::vector<DigestValue> table(testing::NumTiles(cover));
  memory.AddTo(move, cover, table);
  for (const Box& witness : tensor::Subtract(cover, move)) {
    memory.AddTo(witness, cover, table);
  }
  return table;
}

TEST(CompareTablesTest, EqualMemoryHasNoMismatch) {
  const Whole source({300, 500});
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    const auto sub_range = [&](Range in) {
      const auto extent = static_cast<uint64_t>(in.extent());
      const auto a = static_cast<int64_t>(random() % extent);
      const auto b = static_cast<int64_t>(random() % extent);
      return Range{in.begin + std::min(a, b), in.begin + std::max(a, b) + 1};
    };
    const Box fragment = MakeBox({sub_range({0, 300}), sub_range({0, 500})});
    const Box move =
        MakeBox({sub_range(fragment.range(0)), sub_range(fragment.range(1))});
    const auto mismatches =
        CompareTables(fragment, move, source.TableOf(fragment),
                      Received(source, fragment, move));
    ASSERT_TRUE(mismatches.ok()) << mismatches.status();
    ASSERT_TRUE(mismatches->empty())
        << fragment.ToString() << " " << move.ToString();
  }
}

TEST(CompareTablesTest, NamesTheTilesThatDiffer) {
  const Whole source({300, 500});
  const Box fragment = MakeBox({{10, 290}, {0, 450}});
  const Box move = MakeBox({{70, 200}, {30, 440}});
  const std::vector<DigestValue> expected = source.TableOf(fragment);
  Whole memory = source;
  memory.values[70 * 500 + 40] ^= 1;     // row 70, column 40
  memory.values[199 * 500 + 439] ^= 64;  // the last one
  memory.values[5 * 500 + 5] ^= 1;       // outside the fragment
  memory.values[290 * 500 + 100] ^= 1;   // outside, in a row just below
  const std::vector<DigestValue> got = Received(memory, fragment, move);
  const auto mismatches = CompareTables(fragment, move, expected, got);
  ASSERT_TRUE(mismatches.ok()) << mismatches.status();
  ASSERT_EQ(mismatches->size(), 2u);
  // Clipped to the fragment: the last column of tiles ends at 450.
  EXPECT_EQ((*mismatches)[0].tile, MakeBox({{64, 128}, {0, 64}}));
  EXPECT_EQ((*mismatches)[1].tile, MakeBox({{192, 256}, {384, 448}}));
  // Tile row 1 of 5 and 8 tiles a row; tile row 3, tile column 6.
  EXPECT_EQ((*mismatches)[0].expected, expected[1 * 8 + 0]);
  EXPECT_EQ((*mismatches)[1].expected, expected[3 * 8 + 6]);
  // The cover has tile rows 1 to 3 and tile columns 0 to 6.
  EXPECT_EQ((*mismatches)[0].got, got[0]);
  EXPECT_EQ((*mismatches)[1].got, got[2 * 7 + 6]);
}

TEST(CompareTablesTest, NoticesMovedMemory) {
  const Whole source({256, 256});
  const Box all = source.box;
  const std::vector<DigestValue> expected = source.TableOf(all);
  const auto count = [&](const Whole& memory) {
    const auto mismatches =
        CompareTables(all, all, expected, Received(memory, all, all));
    return mismatches.ok() ? static_cast<int>(mismatches->size()) : -1;
  };
  const auto row = [](Whole& memory, int64_t r) {
    return memory.values.begin() + r * 256;
  };
  Whole rows = source;
  std::swap_ranges(row(rows, 3), row(rows, 4), row(rows, 40));
  EXPECT_EQ(count(rows), 4);
  Whole tiles = source;  // tile (0,1) in the place of tile (2,3) too
  for (int64_t r = 0; r < 64; ++r) {
    std::copy_n(row(tiles, r) + 64, 64, row(tiles, 128 + r) + 192);
  }
  EXPECT_EQ(count(tiles), 1);
  Whole shifted = source;
  std::rotate(shifted.values.begin(), shifted.values.begin() + 1,
              shifted.values.end());
  EXPECT_EQ(count(shifted), 16);
}

TEST(CompareTablesTest, ScalarsVectorsAndEmptyMoves) {
  const std::vector<DigestValue> one = {DigestValue{{5, 6}}};
  EXPECT_TRUE(CompareTables(Box(), Box(), one, one)->empty());
  const std::vector<DigestValue> other = {DigestValue{{5, 7}}};
  const auto scalar = CompareTables(Box(), Box(), one, other);
  ASSERT_EQ(scalar->size(), 1u);
  EXPECT_EQ((*scalar)[0], (TileMismatch{Box(), one[0], other[0]}));

  const Whole vector({1000});
  const Box move = MakeBox({{100, 130}});
  Whole memory = vector;
  memory.values[129] ^= 2;
  const auto mismatches =
      CompareTables(vector.box, move, vector.TableOf(vector.box),
                    Received(memory, vector.box, move));
  ASSERT_EQ(mismatches->size(), 1u);
  EXPECT_EQ((*mismatches)[0].tile, MakeBox({{128, 192}}));

  const Box empty = MakeBox({{5, 5}});
  EXPECT_TRUE(CompareTables(vector.box, empty, vector.TableOf(vector.box), {})
                  ->empty());
}

TEST(CompareTablesTest, RefusesWhatDoesNotBelongTogether) {
  const Box fragment = MakeBox({{0, 100}, {0, 100}});
  const std::vector<DigestValue> four(4), three(3);
  const auto outside =
      CompareTables(fragment, MakeBox({{0, 101}, {0, 5}}), four, four);
  EXPECT_EQ(outside.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(outside.status().message()),
              HasSubstr("move box [0,101)x[0,5) is not inside"));
  EXPECT_EQ(
      CompareTables(fragment, MakeBox({{0, 5}}), four, four).status().code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(
          CompareTables(fragment, fragment, three, four).status().message()),
      HasSubstr("published digest table has 3 values but box "
                "[0,100)x[0,100) meets 4 tiles"));
  EXPECT_THAT(
      std::string(
          CompareTables(fragment, fragment, four, three).status().message()),
      HasSubstr("received digest table has 3 values"));
}

TEST(DescribeMismatchesTest, SaysAllInOneSentence) {
  const std::vector<TileMismatch> mismatches = {
      {MakeBox({{64, 128}, {0, 64}}), DigestValue{{0x1, 0x2}},
       DigestValue{{0x3, 0xabcdef0123456789}}},
      {MakeBox({{64, 128}, {64, 128}}), {}, {}},
      {MakeBox({{128, 130}, {0, 64}}), {}, {}}};
  EXPECT_EQ(DescribeMismatches("model.layers.3.mlp.down_proj.weight", 2, 12,
                               mismatches),
            "digest mismatch in 3 of 12 tiles of "
            "\"model.layers.3.mlp.down_proj.weight\": first "
            "[64,128)x[0,64) from source rank 2, expected "
            "00000000000000010000000000000002 got "
            "0000000000000003abcdef0123456789");
}

TEST(TensorDigestTest, DoesNotDependOnTheSharding) {
  const Whole whole({3, 200, 300});
  const tensor::Shape shape = {3, 200, 300};
  constexpr uint64_t kSeed = 9;
  // By the formula: tiles of the whole in row-major order, 3 x 4 x 5.
  const std::vector<DigestValue> table = whole.TableOf(whole.box);
  ASSERT_EQ(table.size(), 60u);
  DigestValue expected;
  for (size_t t = 0; t < table.size(); ++t) {
    for (size_t s = 0; s < 2; ++s) {
      expected.sum[s] += convert::TileWeight(kSeed, t) * table[t].sum[s];
    }
  }
  const std::vector<std::vector<Box>> shardings = {
      {whole.box},
      {MakeBox({{0, 3}, {0, 100}, {0, 300}}),
       MakeBox({{0, 3}, {100, 200}, {0, 300}})},
      {MakeBox({{0, 1}, {0, 200}, {0, 77}}),
       MakeBox({{0, 1}, {0, 200}, {77, 300}}),
       MakeBox({{1, 3}, {0, 200}, {0, 150}}),
       MakeBox({{1, 3}, {0, 200}, {150, 300}}),
       MakeBox({{1, 1}, {0, 200}, {0, 300}})}};
  for (const std::vector<Box>& sharding : shardings) {
    DigestValue total;
    for (const Box& shard : sharding) {
      AddToTensorDigest(kSeed, shape, shard, whole.TableOf(shard), total);
    }
    EXPECT_EQ(total, expected) << sharding.size() << " shards";
  }
}

}  // namespace
}  // namespace weft::verify
