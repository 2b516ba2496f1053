#include "weft/verify/digest_table.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/verify/testing/oracle.h"

namespace weft::verify {
namespace {

using convert::DigestConstants;
using convert::DigestValue;
using layout::DimModes;
using layout::IndexMap;
using tensor::Box;
using tensor::Range;

std::vector<std::byte> RandomBytes(std::mt19937_64& random, int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count));
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}

int64_t Uniform(std::mt19937_64& random, int64_t low, int64_t high) {
  return low +
         static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

Box MakeBox(const std::vector<Range>& ranges) {
  return Box::Make(ranges).value();
}

// A map of any rank whose digits lie in any order, with gaps; contiguous
// along the last dimension about half of the time.
IndexMap RandomMap(std::mt19937_64& random) {
  const int rank = static_cast<int>(random() % 5);
  std::vector<Range> ranges;
  std::vector<DimModes> modes(static_cast<size_t>(rank));
  std::vector<layout::Mode*> digits;
  int64_t budget = 30000;
  for (int dim = rank - 1; dim >= 0; --dim) {
    int64_t extent = 1;
    const int64_t num_digits = Uniform(random, 1, 3);
    for (int64_t k = 0; k < num_digits; ++k) {
      const int64_t most = std::min<int64_t>(
          budget, dim + 2 >= rank ? (num_digits == 1 ? 200 : 13) : 3);
      const int64_t digit = Uniform(random, 1, std::max<int64_t>(most, 1));
      budget /= digit;
      extent *= digit;
      modes[static_cast<size_t>(dim)].push_back({digit, 0});
    }
    if (random() % 40 == 0) {
      extent = 0;
      modes[static_cast<size_t>(dim)] = {{0, 1}};
    }
    const int64_t begin = Uniform(random, 0, 150);
    ranges.insert(ranges.begin(), {begin, begin + extent});
    for (layout::Mode& mode : modes[static_cast<size_t>(dim)]) {
      digits.push_back(&mode);
    }
  }
  // As collected, the fastest digit of the last dimension is the innermost.
  if (random() % 2 == 0) std::shuffle(digits.begin(), digits.end(), random);
  int64_t stride = random() % 4 == 0 ? 2 : 1;
  for (layout::Mode* digit : digits) {
    digit->stride = random() % 30 == 0 ? 0 : stride;
    stride *= std::max<int64_t>(digit->extent, 1);
    if (random() % 4 == 0) stride += Uniform(random, 0, 9);
  }
  return IndexMap::Make(MakeBox(ranges), modes, Uniform(random, 0, 20)).value();
}

TEST(AccumulateTilesTest, EqualsTheElementLoop) {
  for (uint64_t seed = 0; seed < 800; ++seed) {
    std::mt19937_64 random(seed);
    const DigestConstants constants = DigestConstants::FromSeed(seed);
    const IndexMap map = RandomMap(random);
    const int item = 1 << random() % 4;
    SCOPED_TRACE(
        absl::StrCat("seed ", seed, " item ", item, " map ", map.ToString()));
    const std::vector<std::byte> stored =
        RandomBytes(random, map.end_offset_elements() * item);
    // A table of the map's own box, or of a larger one.
    Box table_box = map.box();
    if (random() % 2 == 0) {
      std::vector<Range> larger;
      for (const Range& range : map.box().ranges()) {
        larger.push_back({std::max<int64_t>(0, range.begin - 70),
                          range.end + Uniform(random, 1, 70)});
      }
      table_box = MakeBox(larger);
    }
    std::vector<DigestValue> expected(testing::NumTiles(table_box));
    for (DigestValue& value : expected) value.sum[1] = random();
    std::vector<DigestValue> got = expected;
    std::vector<DigestValue> by_reference = expected;
    testing::AddTable(constants, map, stored.data(), item, table_box, expected);
    const tensor::TileGrid grid = tensor::TileGrid::Of(table_box);
    AccumulateTiles(convert::CpuKernels(), constants, map, stored.data(), item,
                    grid, absl::MakeSpan(got));
    AccumulateTiles(convert::ReferenceKernels(), constants, map, stored.data(),
                    item, grid, absl::MakeSpan(by_reference));
    ASSERT_EQ(got, expected);
    ASSERT_EQ(by_reference, expected);
  }
}

// Cuts `box` at random into disjoint boxes that cover it.
void CutAtRandom(std::mt19937_64& random, const Box& box, int depth,
                 std::vector<Box>& parts) {
  const int dim =
      static_cast<int>(random() % static_cast<uint64_t>(box.rank()));
  if (depth == 0 || box.extent(dim) < 2) {
    parts.push_back(box);
    return;
  }
  const Range range = box.range(dim);
  const int64_t cut = Uniform(random, range.begin + 1, range.end - 1);
  CutAtRandom(random, box.WithRange(dim, {range.begin, cut}), depth - 1, parts);
  CutAtRandom(random, box.WithRange(dim, {cut, range.end}), depth - 1, parts);
}

// `part` of a row-major tensor `whole`, stored by itself with its dimensions
// in a random order.
layout::StoredTensor StoreShard(std::mt19937_64& random, const Box& whole,
                                const Box& part,
                                const std::vector<uint16_t>& values,
                                std::vector<uint16_t>& memory) {
  std::vector<int> order;
  for (int dim = 0; dim < part.rank(); ++dim) order.push_back(dim);
  if (random() % 2 == 0) std::shuffle(order.begin(), order.end(), random);
  std::vector<DimModes> modes(static_cast<size_t>(part.rank()));
  layout::StoredTensor stored;
  stored.dtype = tensor::DType::kBF16;
  int64_t stride = 1;
  for (size_t k = order.size(); k-- > 0;) {
    const int64_t extent = part.extent(order[k]);
    modes[static_cast<size_t>(order[k])] = {{extent, stride}};
    stride *= extent;
    stored.shape.insert(stored.shape.begin(), extent);
  }
  const IndexMap map = IndexMap::Make(part, modes, 0).value();
  memory.assign(static_cast<size_t>(part.num_elements()), 0);
  testing::ForEachElement(part, [&](const std::vector<int64_t>& x) {
    int64_t place = 0;
    for (size_t dim = 0; dim < x.size(); ++dim) {
      place = place * whole.extent(static_cast<int>(dim)) + x[dim];
    }
    memory[static_cast<size_t>(map.OffsetOf(x))] =
        values[static_cast<size_t>(place)];
  });
  stored.fragments.push_back({.tensor = 0, .map = map});
  return stored;
}

TEST(ComputeTablesTest, ShardsAddUpToTheWhole) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    const DigestConstants constants = DigestConstants::FromSeed(seed);
    std::vector<int64_t> shape;
    const int64_t rank = Uniform(random, 1, 3);
    for (int64_t dim = 0; dim < rank; ++dim) {
      shape.push_back(Uniform(random, 1, dim + 2 < rank ? 4 : 260));
    }
    const Box whole = Box::OfShape(shape).value();
    std::vector<uint16_t> values(static_cast<size_t>(whole.num_elements()));
    for (uint16_t& value : values) value = static_cast<uint16_t>(random());
    std::vector<DigestValue> expected(testing::NumTiles(whole));
    const std::vector<int64_t> origin(shape.size(), 0);
    testing::AddTable(
        constants, IndexMap::RowMajor(whole, shape, origin).value(),
        reinterpret_cast<const std::byte*>(values.data()), 2, whole, expected);

    manifest::Placement placement;
    std::vector<Box> parts;
    CutAtRandom(random, whole, 5, parts);
    std::vector<std::vector<uint16_t>> memories(parts.size());
    std::vector<const std::byte*> bases;
    for (size_t i = 0; i < parts.size(); ++i) {
      placement.stored.push_back(
          StoreShard(random, whole, parts[i], values, memories[i]));
      bases.push_back(reinterpret_cast<const std::byte*>(memories[i].data()));
    }
    const TableLayout layout = LayOutTables(placement);
    std::vector<DigestValue> table(static_cast<size_t>(layout.num_values));
    ComputeTables(convert::CpuKernels(), constants, placement, bases, 2,
                  absl::MakeSpan(table));
    std::vector<DigestValue> sums(expected.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      // Where the tiles of the part lie among those of the whole.
      std::vector<size_t> whole_tile(testing::NumTiles(parts[i]));
      testing::ForEachElement(parts[i], [&](const std::vector<int64_t>& x) {
        whole_tile[testing::TileIndexOf(parts[i], x)] =
            testing::TileIndexOf(whole, x);
      });
      for (size_t own = 0; own < whole_tile.size(); ++own) {
        sums[whole_tile[own]] +=
            table[static_cast<size_t>(layout.first_value[i][0]) + own];
      }
    }
    ASSERT_EQ(sums, expected);
  }
}

// Two stored tensors with several fragments, large enough for several parts.
TEST(ComputeTablesTest, DoesNotDependOnThreads) {
  std::mt19937_64 random(5);
  const DigestConstants constants = DigestConstants::FromSeed(5);
  const std::vector<int64_t> big_shape = {1500, 3000};
  const std::vector<int64_t> deep_shape = {3, 100, 130};
  manifest::Placement placement;
  layout::StoredTensor& big = placement.stored.emplace_back();
  big.dtype = tensor::DType::kF32;
  big.shape = {1500, 3000};
  for (const Range rows : {Range{0, 300}, Range{300, 300}, Range{300, 1500}}) {
    big.fragments.push_back(
        {.map = IndexMap::RowMajor(MakeBox({rows, {0, 3000}}), big_shape,
                                   {rows.begin, 0})
                    .value()});
  }
  layout::StoredTensor& scalar = placement.stored.emplace_back();
  scalar.dtype = tensor::DType::kI64;
  scalar.fragments.push_back({});
  layout::StoredTensor& deep = placement.stored.emplace_back();
  deep.dtype = tensor::DType::kBF16;
  deep.shape = {3, 100, 130};
  deep.fragments.push_back(
      {.map = IndexMap::RowMajor(Box::OfShape(deep_shape).value(), deep_shape,
                                 {0, 0, 0})
                  .value()});

  const std::vector<std::vector<std::byte>> memory = {
      RandomBytes(random, 1500 * 3000 * 4), RandomBytes(random, 8),
      RandomBytes(random, 3 * 100 * 130 * 2)};
  const std::vector<const std::byte*> bases = {
      memory[0].data(), memory[1].data(), memory[2].data()};
  const TableLayout layout = LayOutTables(placement);
  // 5 and 20 rows of 47 tiles (300 is inside a tile); one; 3 times 2 by 3.
  const std::vector<std::vector<int64_t>> first = {
      {0, 235, 235}, {1175}, {1176}};
  EXPECT_EQ(layout.first_value, first);
  EXPECT_EQ(layout.num_values, 1176 + 18);
  EXPECT_EQ(layout.size_bytes(), 1194 * 16);

  std::vector<DigestValue> expected;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    for (const layout::Fragment& fragment : placement.stored[i].fragments) {
      std::vector<DigestValue> table(testing::NumTiles(fragment.map.box()));
      testing::AddTable(
          constants, fragment.map, bases[i],
          static_cast<int>(tensor::ItemBytes(placement.stored[i].dtype)),
          fragment.map.box(), table);
      expected.insert(expected.end(), table.begin(), table.end());
    }
  }
  for (const int threads : {-1, 0, 1, 2, 3, 16}) {
    std::vector<DigestValue> got(static_cast<size_t>(layout.num_values),
                                 DigestValue{{1, 2}});
    ComputeTables(convert::CpuKernels(), constants, placement, bases, threads,
                  absl::MakeSpan(got));
    EXPECT_EQ(got, expected) << threads << " threads";
  }
}

TEST(ComputeTablesTest, NothingGivesNothing) {
  const manifest::Placement placement;
  EXPECT_EQ(LayOutTables(placement).num_values, 0);
  ComputeTables(convert::CpuKernels(), DigestConstants::FromSeed(1), placement,
                {}, 4, {});
}

}  // namespace
}  // namespace weft::verify
