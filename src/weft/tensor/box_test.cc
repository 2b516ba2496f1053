#include "weft/tensor/box.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdint>
#include <limits>
#include <set>
#include <vector>

namespace weft::tensor {
namespace {

using ::testing::HasSubstr;
using Point = std::vector<int64_t>;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Every coordinate that the ranges describe, by brute force.
std::set<Point> PointsOf(const Box& box) {
  std::set<Point> points = {Point{}};
  for (const Range& range : box.ranges()) {
    std::set<Point> longer;
    for (const Point& point : points) {
      for (int64_t x = range.begin; x < range.end; ++x) {
        Point next = point;
        next.push_back(x);
        longer.insert(next);
      }
    }
    points = longer;
  }
  return points;
}

Box AnyBox(int rank) {
  std::vector<Range> ranges;
  for (int dim = 0; dim < rank; ++dim) {
    const auto begin = *rc::gen::inRange<int64_t>(0, 6);
    ranges.push_back({begin, begin + *rc::gen::inRange<int64_t>(0, 5)});
  }
  return Box::Make(ranges).value();
}

Box MakeBox(std::vector<Range> ranges) { return Box::Make(ranges).value(); }

TEST(BoxTest, RankZeroIsOneElement) {
  const Box scalar;
  EXPECT_EQ(scalar.rank(), 0);
  EXPECT_EQ(scalar.num_elements(), 1);
  EXPECT_FALSE(scalar.empty());
  EXPECT_EQ(scalar.ToString(), "[]");
  EXPECT_EQ(Box::OfShape({}).value(), scalar);
  EXPECT_TRUE(Subtract(scalar, scalar).empty());
  EXPECT_TRUE(Contains(scalar, scalar));
}

TEST(BoxTest, PrintsHalfOpenRanges) {
  EXPECT_EQ(MakeBox({{0, 4}, {8, 16}}).ToString(), "[0,4)x[8,16)");
  EXPECT_EQ(Box::OfShape({2, 3}).value().ToString(), "[0,2)x[0,3)");
  EXPECT_THAT(MakeBox({{0, 4}, {8, 16}}).shape(), testing::ElementsAre(4, 8));
}

TEST(BoxTest, RefusesInvalidRanges) {
  for (const Range range : {Range{-1, 3}, Range{4, 3}, Range{-5, -2}}) {
    const auto box = Box::Make({range});
    EXPECT_EQ(box.status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Box::OfShape({2, -1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(BoxTest, RefusesMoreElementsThanFit) {
  const auto box = Box::OfShape({int64_t{1} << 32, int64_t{1} << 31});
  EXPECT_EQ(box.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(box.status().message()), HasSubstr("overflow"));
  EXPECT_EQ(Box::OfShape({kMax}).value().num_elements(), kMax);
}

// Make used to refuse [2^40,2^40,0] but to accept [0,2^40,2^40].
TEST(BoxTest, EmptyRangeMakesAnEmptyBoxWhereverItStands) {
  const int64_t large = int64_t{1} << 40;
  for (const auto& shape : std::vector<std::vector<int64_t>>{
           {large, large, 0}, {large, 0, large}, {0, large, large}}) {
    const auto box = Box::OfShape(shape);
    ASSERT_TRUE(box.ok()) << box.status();
    EXPECT_TRUE(box->empty());
    for (int dim = 0; dim < 3; ++dim) {
      EXPECT_EQ(box->WithRange(dim, {0, 0}).num_elements(), 0);
    }
  }
}

TEST(BoxTest, OperationsEqualSetsOfPoints) {
  ASSERT_TRUE(rc::check("Intersect, Subtract, Contains as sets", [] {
    const int rank = *rc::gen::inRange(0, 4);
    const Box a = AnyBox(rank);
    const Box b = AnyBox(rank);
    RC_LOG() << "a = " << a.ToString() << ", b = " << b.ToString() << '\n';
    const std::set<Point> in_a = PointsOf(a);
    const std::set<Point> in_b = PointsOf(b);
    RC_ASSERT(a.num_elements() == static_cast<int64_t>(in_a.size()));
    RC_ASSERT(a.empty() == in_a.empty());

    std::set<Point> both;
    std::set<Point> only_a;
    for (const Point& x : in_a) (in_b.count(x) ? both : only_a).insert(x);
    RC_ASSERT(PointsOf(Intersect(a, b)) == both);
    RC_ASSERT(Intersect(a, b).num_elements() ==
              static_cast<int64_t>(both.size()));

    const std::vector<Box> parts = Subtract(a, b);
    RC_ASSERT(static_cast<int>(parts.size()) <= 2 * rank + 1);
    std::set<Point> united;
    int64_t count = 0;
    for (const Box& part : parts) {
      RC_ASSERT(!part.empty());
      count += part.num_elements();
      united.merge(PointsOf(part));
    }
    RC_ASSERT(united == only_a);
    RC_ASSERT(count == static_cast<int64_t>(only_a.size()));
    RC_ASSERT(Contains(b, a) == only_a.empty());
  }));
}

TEST(BoxTest, WithRangeReplacesOneDimension) {
  const Box box = MakeBox({{0, 4}, {2, 10}}).WithRange(1, {3, 5});
  EXPECT_EQ(box, MakeBox({{0, 4}, {3, 5}}));
  EXPECT_EQ(box.num_elements(), 8);
  EXPECT_EQ(box.WithRange(0, {2, 2}).num_elements(), 0);
}

}  // namespace
}  // namespace weft::tensor
