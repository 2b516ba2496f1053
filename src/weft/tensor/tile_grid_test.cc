#include "weft/tensor/tile_grid.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "weft/base/checked.h"

namespace weft::tensor {
namespace {

using Point = std::vector<int64_t>;

// Boxes of rank 1 to 3 that begin and end near tile borders, kept small
// enough to walk.
Box AnyBox(int rank) {
  std::vector<Range> ranges;
  for (int dim = 0; dim < rank; ++dim) {
    const auto border = 64 * *rc::gen::inRange<int64_t>(0, 3);
    const auto begin =
        std::max<int64_t>(0, border + *rc::gen::inRange<int64_t>(-3, 4));
    const auto extent = rank == 3 && dim == 0
                            ? *rc::gen::inRange<int64_t>(0, 3)
                            : *rc::gen::element<int64_t>(0, 1, 2, 5, 64, 70);
    ranges.push_back({begin, begin + extent});
  }
  return Box::Make(ranges).value();
}

Point TileOf(const Point& x) {
  Point tile = x;
  const std::size_t rank = x.size();
  tile[rank - 1] /= 64;
  if (rank >= 2) tile[rank - 2] /= 64;
  return tile;
}

template <typename Visit>
void ForEachPoint(const Box& box, const Visit& visit) {
  if (box.empty()) return;
  Point x;
  for (const Range& range : box.ranges()) x.push_back(range.begin);
  while (true) {
    visit(x);
    int dim = box.rank() - 1;
    for (; dim >= 0 && ++x[dim] == box.range(dim).end; --dim) {
      x[dim] = box.range(dim).begin;
    }
    if (dim < 0) return;
  }
}

TEST(TileGridTest, ShapesByRank) {
  EXPECT_EQ(TileShape(0), Shape());
  EXPECT_EQ(TileShape(1), Shape({64}));
  EXPECT_EQ(TileShape(2), Shape({64, 64}));
  EXPECT_EQ(TileShape(4), Shape({1, 1, 64, 64}));
}

TEST(TileGridTest, ScalarIsOneTile) {
  const TileGrid grid = TileGrid::Of(Box());
  EXPECT_EQ(grid.num_tiles, 1);
  EXPECT_EQ(grid.IndexOf({}), 0);
  EXPECT_EQ(TileBox({}, Box()), Box());
  EXPECT_EQ(TileCover(Box(), Box()), Box());
}

TEST(TileGridTest, EveryElementLiesInItsTile) {
  ASSERT_TRUE(rc::check("tiles partition the box", [] {
    const Box box = AnyBox(*rc::gen::inRange(1, 4));
    RC_LOG() << "box = " << box.ToString() << '\n';
    std::map<Point, int64_t> elements;  // by tile, in row-major order
    ForEachPoint(box, [&](const Point& x) { ++elements[TileOf(x)]; });

    const TileGrid grid = TileGrid::Of(box);
    RC_ASSERT(grid.num_tiles == static_cast<int64_t>(elements.size()));
    int64_t index = 0;
    for (const auto& [tile, count] : elements) {
      RC_ASSERT(grid.IndexOf(tile) == index++);
      const Box part = TileBox(tile, box);
      RC_ASSERT(part.num_elements() == count);
      RC_ASSERT(Contains(box, part));
      ForEachPoint(part, [&, &own = tile](const Point& x) {
        RC_ASSERT(TileOf(x) == own);
      });
    }
  }));
}

TEST(TileGridTest, CoverHoldsAllElementsThatShareATile) {
  ASSERT_TRUE(rc::check("TileCover", [] {
    const Box clip = AnyBox(*rc::gen::inRange(1, 3));
    std::vector<Range> ranges;
    for (const Range& range : clip.ranges()) {
      const auto begin = *rc::gen::inRange(range.begin, range.end + 1);
      ranges.push_back({begin, *rc::gen::inRange(begin, range.end + 1)});
    }
    const Box box = Box::Make(ranges).value();
    RC_LOG() << "box = " << box.ToString() << ", clip = " << clip.ToString()
             << '\n';
    const Box cover = TileCover(box, clip);
    if (box.empty()) {
      RC_ASSERT(cover == box);
      return;
    }
    std::set<Point> tiles;
    ForEachPoint(box, [&](const Point& x) { tiles.insert(TileOf(x)); });
    int64_t expected = 0;
    ForEachPoint(clip, [&](const Point& x) {
      if (tiles.count(TileOf(x)) == 0) return;
      ++expected;
      for (int dim = 0; dim < cover.rank(); ++dim) {
        RC_ASSERT(x[dim] >= cover.range(dim).begin &&
                  x[dim] < cover.range(dim).end);
      }
    });
    RC_ASSERT(cover.num_elements() == expected);
  }));
}

// The end of the last tile does not fit 64 bits here.
TEST(TileGridTest, TilesAtTheEndOfTheNumberLine) {
  const int64_t max = std::numeric_limits<int64_t>::max();
  const Box clip = Box::Make({{0, max}}).value();
  const Box box = Box::Make({{max - 2, max}}).value();
  const TileGrid grid = TileGrid::Of(box);
  ASSERT_EQ(grid.num_tiles, 1);
  const Box expected = Box::Make({{max - 63, max}}).value();
  EXPECT_EQ(TileBox({grid.tiles[0].begin}, clip), expected);
  EXPECT_EQ(TileCover(box, clip), expected);
}

}  // namespace
}  // namespace weft::tensor
