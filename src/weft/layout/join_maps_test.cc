#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "weft/layout/index_map.h"
#include "weft/layout/testing/oracle.h"

namespace weft::layout {
namespace {

using testing::AnyMap;
using testing::Describe;
using testing::MapParts;
using testing::PartsOf;
using testing::Point;
using testing::Table;

tensor::Box MakeBox(std::vector<tensor::Range> ranges) {
  return tensor::Box::Make(ranges).value();
}

IndexMap Rows(int64_t begin, int64_t end, int64_t h, int64_t stored_row) {
  return IndexMap::Make(MakeBox({{begin, end}, {0, h}}),
                        {{{end - begin, h}}, {{h, 1}}}, stored_row * h)
      .value();
}

std::map<Point, int64_t> TableOf(const std::vector<IndexMap>& maps) {
  std::map<Point, int64_t> table;
  for (const IndexMap& map : maps) table.merge(Table(PartsOf(map)));
  return table;
}

std::vector<IndexMap> Shuffled(std::vector<IndexMap> maps) {
  for (std::size_t i = maps.size(); i > 1; --i) {
    std::swap(maps[i - 1], maps[*rc::gen::inRange<std::size_t>(0, i)]);
  }
  return maps;
}

// Cuts a random map into a grid of pieces, some of them displaced.
std::vector<IndexMap> AnyPieces() {
  const MapParts parts = AnyMap(*rc::gen::inRange(1, 4), 12, 2);
  RC_LOG() << "pieces of " << Describe(parts) << '\n';
  std::vector<tensor::Box> boxes = {parts.box};
  for (int dim = 0; dim < parts.box.rank(); ++dim) {
    const auto step = *rc::gen::inRange<int64_t>(1, 8);
    std::vector<tensor::Box> cut;
    for (const tensor::Box& box : boxes) {
      const tensor::Range whole = box.range(dim);
      for (int64_t begin = whole.begin; begin < whole.end; begin += step) {
        cut.push_back(
            box.WithRange(dim, {begin, std::min(whole.end, begin + step)}));
      }
    }
    boxes = std::move(cut);
  }
  const IndexMap whole = parts.Made();
  std::vector<IndexMap> pieces;
  for (const tensor::Box& box : boxes) {
    for (const IndexMap& piece : Restrict(whole, box)) {
      const int64_t moved =
          *rc::gen::weightedElement<int64_t>({{9, 0}, {1, 1000}});
      MapParts piece_parts = PartsOf(piece);
      piece_parts.offset += moved;
      if (*rc::gen::inRange(0, 12) != 0) pieces.push_back(piece_parts.Made());
    }
  }
  return pieces;
}

TEST(JoinMapsTest, KeepsEveryCoordinate) {
  ASSERT_TRUE(rc::check("JoinMaps", [] {
    const std::vector<IndexMap> pieces = AnyPieces();
    const std::vector<IndexMap> joined = JoinMaps(Shuffled(pieces));
    for (const IndexMap& map : joined) RC_LOG() << map.ToString() << '\n';
    RC_ASSERT(joined.size() <= pieces.size());
    const std::map<Point, int64_t> expected = TableOf(pieces);
    RC_ASSERT(TableOf(joined) == expected);
    int64_t elements = 0;
    for (const IndexMap& map : joined) elements += map.box().num_elements();
    RC_ASSERT(elements == static_cast<int64_t>(expected.size()));
    RC_ASSERT(JoinMaps(Shuffled(pieces)) == joined);  // order does not matter
  }));
}

// Megatron's linear_qkv: rows [g*nD,(g+1)*nD) of q at stored row g*(n+2)*D.
TEST(JoinMapsTest, QueryGroupsBecomeOneNestedMap) {
  const int64_t groups = 8, n = 4, d = 16, h = 32;
  std::vector<IndexMap> maps;
  for (int64_t g = groups - 1; g >= 0; --g) {
    maps.push_back(Rows(g * n * d, (g + 1) * n * d, h, g * (n + 2) * d));
  }
  const auto joined = JoinMaps(maps);
  ASSERT_EQ(joined.size(), 1u);
  EXPECT_EQ(joined[0].ToString(),
            "[0,512)x[0,32) : ((64,8):(32,3072)) (32:1) + 0");
}

// Group by group a row at a time: first rows into groups, then groups.
TEST(JoinMapsTest, NestsTwoLevels) {
  std::vector<IndexMap> maps;
  for (int64_t row = 0; row < 24; ++row) {
    const int64_t stored = row % 2 + row / 2 % 3 * 10 + row / 6 * 100;
    maps.push_back(Rows(row, row + 1, 8, stored));
  }
  const auto joined = JoinMaps(maps);
  ASSERT_EQ(joined.size(), 1u);
  EXPECT_EQ(joined[0].ToString(),
            "[0,24)x[0,8) : ((2,3,4):(8,80,800)) (8:1) + 0");
}

TEST(JoinMapsTest, UnevenNeighboursContinue) {
  const auto joined =
      JoinMaps({Rows(9, 10, 8, 9), Rows(0, 3, 8, 0), Rows(3, 9, 8, 3)});
  ASSERT_EQ(joined.size(), 1u);
  EXPECT_EQ(joined[0].ToString(), "[0,10)x[0,8) : (10:8) (8:1) + 0");
}

TEST(JoinMapsTest, RepeatedValuesJoinWithStrideZero) {
  const auto joined =
      JoinMaps({Rows(0, 2, 8, 4), Rows(2, 4, 8, 4), Rows(4, 6, 8, 4)});
  ASSERT_EQ(joined.size(), 1u);
  EXPECT_EQ(joined[0].ToString(), "[0,6)x[0,8) : ((2,3):(8,0)) (8:1) + 32");
}

TEST(JoinMapsTest, QuadrantsJoinAlongBothDimensions) {
  std::vector<IndexMap> maps;
  for (const tensor::Range rows : {tensor::Range{0, 3}, tensor::Range{3, 8}}) {
    for (const tensor::Range cols :
         {tensor::Range{0, 1}, tensor::Range{1, 4}, tensor::Range{4, 6}}) {
      const std::vector<int64_t> origin = {rows.begin, cols.begin};
      maps.push_back(
          IndexMap::RowMajor(MakeBox({rows, cols}), {8, 6}, origin).value());
    }
  }
  const auto joined = JoinMaps(maps);
  ASSERT_EQ(joined.size(), 1u);
  EXPECT_EQ(
      joined[0],
      IndexMap::RowMajor(MakeBox({{0, 8}, {0, 6}}), {8, 6}, {0, 0}).value());
}

TEST(JoinMapsTest, LeavesApartWhatIsNotOneMap) {
  // Not neighbours, backwards, different columns.
  EXPECT_EQ(JoinMaps({Rows(0, 2, 8, 0), Rows(3, 5, 8, 3)}).size(), 2u);
  EXPECT_EQ(JoinMaps({Rows(0, 2, 8, 5), Rows(2, 4, 8, 0)}).size(), 2u);
  EXPECT_EQ(JoinMaps({Rows(0, 2, 8, 0), Rows(2, 4, 6, 0)}).size(), 2u);
  EXPECT_TRUE(JoinMaps({}).empty());
  EXPECT_TRUE(
      JoinMaps({IndexMap::Make(MakeBox({{4, 4}}), {{}}, 0).value()}).empty());
}

}  // namespace
}  // namespace weft::layout
