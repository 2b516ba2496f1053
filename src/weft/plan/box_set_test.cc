#include "weft/plan/box_set.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <vector>

#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using tensor::Box;
using testing::Coords;
using testing::Pick;
using testing::Rng;

struct Case {
  std::vector<Box> boxes;
  std::vector<const Box*> pointers;
  std::map<Coords, int> times;  // how many boxes hold an element
};

Box RandomBox(Rng& rng, int64_t rank, int64_t min_extent) {
  std::vector<tensor::Range> ranges;
  for (int64_t dim = 0; dim < rank; ++dim) {
    const int64_t begin = Pick(rng, 0, 6);
    ranges.push_back({begin, begin + Pick(rng, min_extent, 4)});
  }
  return testing::MakeBox(ranges);
}

Case AnyCase(int64_t max_boxes, int64_t min_extent) {
  Rng rng(*rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, 1u << 30)));
  Case c;
  const int64_t rank = Pick(rng, 0, 3);
  const int64_t count = Pick(rng, 0, max_boxes);
  for (int64_t i = 0; i < count; ++i) {
    c.boxes.push_back(RandomBox(rng, rank, min_extent));
  }
  for (const Box& box : c.boxes) {
    c.pointers.push_back(&box);
    testing::ForEach(box, [&](const Coords& x) { ++c.times[x]; });
  }
  return c;
}

TEST(BoxSet, UnionElementsCountsEachOnce) {
  ASSERT_TRUE(rc::check("union", [] {
    const Case c = AnyCase(9, 0);
    RC_ASSERT(UnionElements(c.pointers) ==
              static_cast<int64_t>(c.times.size()));
  }));
}

TEST(BoxSet, FindOverlapFindsOneIfThereIsOne) {
  ASSERT_TRUE(rc::check("overlap", [] {
    const Case c = AnyCase(4, 1);
    bool any = false;
    for (const auto& [x, times] : c.times) any = any || times > 1;
    const auto found = FindOverlap(c.pointers);
    RC_ASSERT(found.has_value() == any);
    if (!found) return;
    RC_ASSERT(found->first < found->second);
    const Box both = tensor::Intersect(*c.pointers[found->first],
                                       *c.pointers[found->second]);
    RC_ASSERT(!both.empty());
  }));
}

TEST(BoxSet, OverlapsIsACommonElement) {
  ASSERT_TRUE(rc::check("overlaps", [] {
    Rng rng(*rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, 1u << 30)));
    const int64_t rank = Pick(rng, 0, 3);
    const Box a = RandomBox(rng, rank, 0);
    const Box b = RandomBox(rng, rank, 0);
    std::map<Coords, int> times;
    bool any = false;
    testing::ForEach(a, [&](const Coords& x) { ++times[x]; });
    testing::ForEach(b, [&](const Coords& x) { any = any || times[x] > 0; });
    RC_ASSERT(Overlaps(a, b) == any);
  }));
}

TEST(BoxSet, SubtractAllLeavesTheRestOnce) {
  ASSERT_TRUE(rc::check("subtract", [] {
    Case c = AnyCase(5, 0);
    RC_PRE(!c.boxes.empty());
    const Box whole = c.boxes.back();
    c.pointers.pop_back();
    std::map<Coords, int> expected;
    testing::ForEach(whole, [&](const Coords& x) { expected[x] = 1; });
    for (const Box* part : c.pointers) {
      testing::ForEach(*part, [&](const Coords& x) { expected.erase(x); });
    }
    std::map<Coords, int> got;
    for (const Box& box : SubtractAll(whole, c.pointers)) {
      RC_ASSERT(!box.empty());
      testing::ForEach(box, [&](const Coords& x) { ++got[x]; });
    }
    RC_ASSERT(got == expected);
  }));
}

}  // namespace
}  // namespace weft::plan
