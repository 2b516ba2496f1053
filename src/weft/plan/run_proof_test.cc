#include "weft/plan/run_proof.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "weft/plan/move_runs.h"
#include "weft/plan/testing/plan_oracle.h"

namespace weft::plan {
namespace {

using layout::DimModes;
using layout::IndexMap;
using tensor::Box;
using testing::Pick;
using testing::Rng;
using Pairs = std::vector<std::pair<int64_t, int64_t>>;

Pairs PairsOfMaps(const IndexMap& src, const IndexMap& dst, const Box& box) {
  Pairs pairs;
  testing::ForEach(box, [&](const testing::Coords& x) {
    pairs.push_back({src.OffsetOf(x), dst.OffsetOf(x)});
  });
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

Pairs PairsOfRuns(const std::vector<layout::Run>& runs) {
  Pairs pairs;
  for (const layout::Run& run : runs) {
    testing::ForEachPair(run, [&](int64_t src, int64_t dst) {
      pairs.push_back({src, dst});
    });
  }
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

// Digits that multiply to `extent`, in random sizes.
std::vector<int64_t> Factor(Rng& rng, int64_t extent) {
  std::vector<int64_t> digits;
  while (extent > 1 && digits.size() < 3) {
    std::vector<int64_t> divisors;
    for (int64_t d = 2; d <= extent; ++d) {
      if (extent % d == 0) divisors.push_back(d);
    }
    digits.push_back(divisors[Pick(rng, 0, divisors.size() - 1)]);
    extent /= digits.back();
  }
  if (extent > 1) digits.push_back(extent);
  return digits;
}

// An injective map of `box`: its digits get their strides in a random order,
// sometimes with gaps; or a map that may repeat when `may_repeat`.
IndexMap RandomMap(Rng& rng, const Box& box, bool may_repeat) {
  std::vector<DimModes> modes(box.rank());
  std::vector<std::pair<int, int>> order;
  for (int dim = 0; dim < box.rank(); ++dim) {
    for (const int64_t extent : Factor(rng, box.extent(dim))) {
      order.push_back({dim, static_cast<int>(modes[dim].size())});
      modes[dim].push_back({extent, 0});
    }
  }
  if (Pick(rng, 0, 1) == 0) {
    std::reverse(order.begin(), order.end());
  } else {
    std::shuffle(order.begin(), order.end(), rng);
  }
  int64_t stride = 1;
  for (const auto& [dim, digit] : order) {
    if (may_repeat && Pick(rng, 0, 5) == 0) continue;  // stride 0
    modes[dim][digit].stride = stride;
    stride *= modes[dim][digit].extent;
    if (Pick(rng, 0, 5) == 0) stride += Pick(rng, 1, 3);
  }
  return *IndexMap::Make(box, std::move(modes), Pick(rng, 0, 9));
}

// A range with 12 or 24 coordinates, so that digits differ, or another.
tensor::Range RandomRange(Rng& rng) {
  const int64_t begin = Pick(rng, 0, 5);
  const int64_t extents[] = {1, 2, 3, 5, 6, 8, 12, 24};
  return {begin, begin + extents[Pick(rng, 0, 7)]};
}

struct Case {
  IndexMap src, dst;
  Box box;
  std::vector<layout::Run> runs;
};

Case AnyCase() {
  const auto seed =
      *rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, uint64_t{1} << 48));
  Rng rng(seed);
  std::vector<tensor::Range> src, dst, cut;
  const int64_t rank = Pick(rng, 0, 3);
  for (int64_t dim = 0; dim < rank; ++dim) {
    dst.push_back(RandomRange(rng));
    src.push_back(Pick(rng, 0, 1) == 0 ? dst.back() : RandomRange(rng));
    const int64_t begin = std::max(src.back().begin, dst.back().begin);
    const int64_t end = std::min(src.back().end, dst.back().end);
    RC_PRE(begin < end);
    cut.push_back({begin, end});
    if (Pick(rng, 0, 3) == 0) {
      cut.back().begin = Pick(rng, begin, end - 1);
      cut.back().end = Pick(rng, cut.back().begin + 1, end);
    }
  }
  Case c{RandomMap(rng, testing::MakeBox(src), true),
         RandomMap(rng, testing::MakeBox(dst), false),
         testing::MakeBox(cut),
         {}};
  c.runs = *RunsOfBox(c.src, c.dst, c.box, 1 << 20);
  return c;
}

TEST(RunsOfBox, AreThePairsOfTheMaps) {
  ASSERT_TRUE(rc::check("pairs", [] {
    const Case c = AnyCase();
    RC_ASSERT(PairsOfRuns(c.runs) == PairsOfMaps(c.src, c.dst, c.box));
  }));
}

TEST(FindRunFault, AcceptsWhatThePlannerMakes) {
  ASSERT_TRUE(rc::check("accepts", [] {
    const Case c = AnyCase();
    RC_ASSERT(!FindRunFault(c.src, c.dst, c.box, c.runs).has_value());
  }));
}

// Whatever is done to the runs: accepted only if the pairs are still right.
TEST(FindRunFault, AcceptsNothingElse) {
  int refused = 0;
  ASSERT_TRUE(rc::check("accepted => exact", [&refused] {
    const Case c = AnyCase();
    Rng rng(*rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, 1 << 30)));
    std::vector<layout::Run> runs = c.runs;
    layout::Run& run = runs[Pick(rng, 0, runs.size() - 1)];
    const size_t mode =
        run.modes.empty() ? 0 : Pick(rng, 0, run.modes.size() - 1);
    switch (Pick(rng, 0, run.modes.empty() ? 3 : 8)) {
      case 0:
        run.src_offset += Pick(rng, -2, 2);
        break;
      case 1:
        run.dst_offset += Pick(rng, -2, 2);
        break;
      case 2:
        runs.push_back(layout::Run(run));
        break;
      case 3:
        runs.erase(runs.begin() + (&run - runs.data()));
        break;
      case 4:
        run.modes[mode].extent += Pick(rng, -1, 1);
        break;
      case 5:
        run.modes[mode].src_stride += Pick(rng, -1, 1);
        break;
      case 6:
        run.modes[mode].dst_stride += Pick(rng, -1, 1);
        break;
      case 7:
        std::reverse(run.modes.begin(), run.modes.end());
        break;
      case 8:
        run.modes.erase(run.modes.begin() + mode);
        break;
    }
    const bool accepted = !FindRunFault(c.src, c.dst, c.box, runs).has_value();
    const bool exact = PairsOfRuns(runs) == PairsOfMaps(c.src, c.dst, c.box);
    RC_ASSERT(!accepted || exact);
    if (!accepted) ++refused;
  }));
  EXPECT_GT(refused, 20);
}

// Without CommonRuns: a column cut and query groups written down by hand.
TEST(FindRunFault, KnowsRunsWrittenByHand) {
  const Box box = testing::MakeBox({{0, 8}, {4, 8}});
  const IndexMap src =
      *IndexMap::Make(testing::MakeBox({{0, 8}, {0, 8}}),
                      {testing::OneMode(8, 8), testing::OneMode(8, 1)}, 0);
  layout::DimModes groups = testing::OneMode(2, 4);
  groups.push_back({4, 16});
  const IndexMap dst =
      *IndexMap::Make(box, {groups, testing::OneMode(4, 1)}, 8);
  layout::Run run;
  run.src_offset = 4;
  run.dst_offset = 8;
  run.modes = {{4, 16, 16}, {2, 8, 4}, {4, 1, 1}};
  EXPECT_EQ(FindRunFault(src, dst, box, {run}), std::nullopt);
  run.modes[0].src_stride = 8;
  EXPECT_NE(FindRunFault(src, dst, box, {run}), std::nullopt);
}

TEST(FindRunFault, SurvivesHugeNumbers) {
  const Box box = testing::MakeBox({{0, 8}});
  const IndexMap map = *IndexMap::Make(box, {testing::OneMode(8, 1)}, 0);
  const int64_t huge = INT64_MAX;
  for (const int64_t offset : {int64_t{0}, huge, -huge - 1}) {
    for (const int64_t stride : {int64_t{1}, huge, -huge - 1, int64_t{0}}) {
      layout::Run run;
      run.src_offset = offset;
      run.dst_offset = offset;
      run.modes = {{huge, stride, stride}, {huge, 1, stride}, {2, stride, 1}};
      EXPECT_NE(FindRunFault(map, map, box, {run}), std::nullopt);
    }
  }
}

}  // namespace
}  // namespace weft::plan
