#include "weft/layout/index_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "weft/layout/testing/oracle.h"

namespace weft::layout {
namespace {

using testing::AnyBoxNear;
using testing::AnyMap;
using testing::Describe;
using ::testing::HasSubstr;
using testing::MapParts;
using testing::PartsOf;
using testing::Point;
using testing::PointsOf;
using testing::Table;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

tensor::Box MakeBox(std::vector<tensor::Range> ranges) {
  return tensor::Box::Make(ranges).value();
}

void ExpectRefused(const absl::StatusOr<IndexMap>& map,
                   const std::string& what) {
  ASSERT_EQ(map.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(map.status().message()), HasSubstr(what));
}

TEST(IndexMapTest, OffsetsFollowTheFormula) {
  ASSERT_TRUE(rc::check("OffsetOf, end_offset_elements", [] {
    const MapParts parts = AnyMap(*rc::gen::inRange(0, 4), 30, 3);
    const IndexMap map = parts.Made();
    RC_LOG() << Describe(parts) << " made " << map.ToString() << '\n';
    int64_t largest = -1;
    for (const auto& [x, offset] : Table(parts)) {
      RC_ASSERT(map.OffsetOf(x) == offset);
      largest = std::max(largest, offset);
    }
    RC_ASSERT(map.end_offset_elements() == largest + 1);
    RC_ASSERT(map.box() == parts.box);
  }));
}

TEST(IndexMapTest, Prints) {
  const auto map = IndexMap::Make(MakeBox({{0, 4}, {0, 8}}),
                                  {{{2, 8}, {2, 32}}, {{8, 1}}}, 16);
  EXPECT_EQ(map->ToString(), "[0,4)x[0,8) : ((2,2):(8,32)) (8:1) + 16");
  EXPECT_EQ(IndexMap().ToString(), "[] : + 0");
  EXPECT_EQ(IndexMap().OffsetOf({}), 0);
  EXPECT_EQ(IndexMap().end_offset_elements(), 1);
}

TEST(IndexMapTest, MakeRefusesWhatItCannotMean) {
  const tensor::Box box = MakeBox({{0, 4}});
  ExpectRefused(IndexMap::Make(box, {}, 0), "one a dimension");
  ExpectRefused(IndexMap::Make(box, {{{3, 1}}}, 0), "extent 3");
  ExpectRefused(IndexMap::Make(box, {{}}, 0), "extent 1");
  ExpectRefused(IndexMap::Make(box, {{{4, -1}}}, 0), "4:-1");
  ExpectRefused(IndexMap::Make(box, {{{-2, 1}, {-2, 1}}}, 0), "-2:1");
  ExpectRefused(IndexMap::Make(box, {{{0, 1}}}, 0), "0:1");
  ExpectRefused(IndexMap::Make(box, {{{4, 1}}}, -1), "-1");
  ExpectRefused(IndexMap::Make(box, {{{4, 1}}}, kMax), "64 bits");
  ExpectRefused(IndexMap::Make(box, {{{4, 1}}}, kMax - 3), "64 bits");
  EXPECT_TRUE(IndexMap::Make(box, {{{4, 1}}}, kMax - 4).ok());
  ExpectRefused(IndexMap::Make(box, {{{4, kMax / 2}}}, 0), "64 bits");
  // 2^33 * 2^33 * 4 == 4 modulo 2^64.
  ExpectRefused(
      IndexMap::Make(box, {{{int64_t{1} << 33, 0}, {int64_t{1} << 33, 0}}}, 0),
      "64 bits");
  ExpectRefused(
      IndexMap::Make(MakeBox({{0, 2}, {0, 2}}), {{{2, kMax - 2}}, {{2, 3}}}, 0),
      "64 bits");
}

TEST(IndexMapTest, EmptyDimensionDropsItsModes) {
  const auto map =
      IndexMap::Make(MakeBox({{3, 3}, {0, 8}}), {{{-7, -7}}, {{8, 1}}}, 5);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_TRUE(map->modes(0).empty());
  EXPECT_EQ(map->end_offset_elements(), 0);
}

TEST(IndexMapTest, RowMajorIsCOrder) {
  ASSERT_TRUE(rc::check("RowMajor", [] {
    std::vector<int64_t> shape;
    std::vector<int64_t> origin;
    std::vector<tensor::Range> ranges;
    for (int dim = *rc::gen::inRange(0, 4); dim > 0; --dim) {
      shape.push_back(*rc::gen::inRange<int64_t>(0, 6));
      origin.push_back(*rc::gen::inRange<int64_t>(0, shape.back() + 1));
      const auto begin = *rc::gen::inRange<int64_t>(0, 5);
      ranges.push_back(
          {begin, begin + *rc::gen::inRange<int64_t>(
                              0, shape.back() - origin.back() + 1)});
    }
    const tensor::Box box = tensor::Box::Make(ranges).value();
    const auto map = IndexMap::RowMajor(box, shape, origin);
    RC_ASSERT(map.ok());
    RC_LOG() << map->ToString() << '\n';
    for (const Point& x : PointsOf(box)) {
      int64_t offset = 0;
      for (std::size_t dim = 0; dim < x.size(); ++dim) {
        offset =
            offset * shape[dim] + origin[dim] + (x[dim] - ranges[dim].begin);
      }
      RC_ASSERT(map->OffsetOf(x) == offset);
    }
  }));
}

TEST(IndexMapTest, RowMajorRefusesWhatDoesNotFit) {
  const tensor::Box box = MakeBox({{0, 4}, {0, 8}});
  ExpectRefused(IndexMap::RowMajor(box, {4, 8}, {1, 0}), "dimension 0");
  ExpectRefused(IndexMap::RowMajor(box, {4, 7}, {0, 0}), "dimension 1");
  ExpectRefused(IndexMap::RowMajor(box, {4, 8}, {0, -1}), "dimension 1");
  ExpectRefused(IndexMap::RowMajor(box, {4, 8}, {0, kMax}), "dimension 1");
  ExpectRefused(IndexMap::RowMajor(box, {32}, {0}), "rank 2");
  ExpectRefused(IndexMap::RowMajor(box, {4, 8}, {0}), "rank 2");
  ExpectRefused(IndexMap::RowMajor(box, {kMax, 8}, {0, 0}), "overflow");
}

TEST(RestrictTest, KeepsTheFunctionOnTheIntersection) {
  ASSERT_TRUE(rc::check("Restrict", [] {
    const MapParts parts = AnyMap(*rc::gen::inRange(0, 4), 40, 3);
    const tensor::Box box = AnyBoxNear(parts.box);
    RC_LOG() << Describe(parts) << " cut to " << box.ToString() << '\n';
    std::map<Point, int64_t> expected;
    for (const auto& [x, offset] : Table(parts)) {
      bool inside = true;
      for (std::size_t dim = 0; dim < x.size(); ++dim) {
        const tensor::Range& range = box.range(static_cast<int>(dim));
        inside = inside && x[dim] >= range.begin && x[dim] < range.end;
      }
      if (inside) expected[x] = offset;
    }
    std::map<Point, int64_t> actual;
    std::size_t count = 0;
    for (const IndexMap& piece : Restrict(parts.Made(), box)) {
      RC_ASSERT(!piece.box().empty());
      const auto table = Table(PartsOf(piece));
      count += table.size();
      actual.insert(table.begin(), table.end());
    }
    RC_ASSERT(actual == expected);
    RC_ASSERT(count == expected.size());  // disjoint
  }));
}

TEST(RestrictTest, CutsOfLargeMapsAreFew) {
  // 4 query groups of 6 rows each, 1 << 40 columns.
  const int64_t columns = int64_t{1} << 40;
  const auto map =
      IndexMap::Make(MakeBox({{0, 24}, {0, columns}}),
                     {{{6, columns}, {4, 8 * columns}}, {{columns, 1}}}, 0);
  const auto pieces = Restrict(*map, MakeBox({{3, 20}, {5, columns}}));
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].box(), MakeBox({{3, 6}, {5, columns}}));
  EXPECT_EQ(pieces[1].box(), MakeBox({{6, 18}, {5, columns}}));
  EXPECT_EQ(pieces[2].box(), MakeBox({{18, 20}, {5, columns}}));
  EXPECT_EQ(Restrict(*map, MakeBox({{6, 12}, {0, columns}})).size(), 1u);
}

TEST(PermuteTest, MovesDimensions) {
  ASSERT_TRUE(rc::check("Permute", [] {
    const int rank = *rc::gen::inRange(0, 4);
    const MapParts parts = AnyMap(rank, 12, 2);
    std::vector<int> perm(rank);
    std::iota(perm.begin(), perm.end(), 0);
    for (int i = rank - 1; i > 0; --i) {
      std::swap(perm[i], perm[*rc::gen::inRange(0, i + 1)]);
    }
    const auto result = Permute(parts.Made(), perm);
    RC_ASSERT(result.ok());
    RC_LOG() << Describe(parts) << " -> " << result->ToString() << '\n';
    for (const auto& [x, offset] : Table(parts)) {
      Point permuted;
      for (const int dim : perm) permuted.push_back(x[dim]);
      RC_ASSERT(result->OffsetOf(permuted) == offset);
    }
    RC_ASSERT(result->box().num_elements() == parts.box.num_elements());
  }));
}

TEST(PermuteTest, RefusesOtherLists) {
  const IndexMap map =
      IndexMap::RowMajor(MakeBox({{0, 2}, {0, 3}}), {2, 3}, {0, 0}).value();
  for (const std::vector<int>& perm :
       std::vector<std::vector<int>>{{0}, {0, 0}, {0, 2}, {-1, 0}, {0, 1, 2}}) {
    ExpectRefused(Permute(map, perm), "not a permutation");
  }
}

}  // namespace
}  // namespace weft::layout
