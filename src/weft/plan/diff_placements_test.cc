#include "weft/plan/diff_placements.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/layout/index_map.h"

namespace weft::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kRows = 8;
constexpr int64_t kCols = 4;

tensor::Box Rows(int64_t begin, int64_t end) {
  return tensor::Box::OfShape({kRows, kCols})
      .value()
      .WithRange(0, {begin, end});
}

// Boxes of rows of "w", one below the other in one stored tensor.
manifest::Placement Stack(const std::string& name,
                          const std::vector<tensor::Range>& parts,
                          tensor::DType dtype = tensor::DType::kBF16) {
  manifest::Placement placement;
  placement.tensors = {{"w", tensor::DType::kBF16, {kRows, kCols}}};
  layout::StoredTensor stored;
  stored.name = name;
  stored.dtype = dtype;
  stored.shape = {0, kCols};
  for (const tensor::Range& rows : parts) stored.shape[0] += rows.extent();
  int64_t origin = 0;
  for (const tensor::Range& rows : parts) {
    stored.fragments.push_back(
        {0, layout::IndexMap::RowMajor(Rows(rows.begin, rows.end), stored.shape,
                                       {origin, 0})
                .value()});
    origin += rows.extent();
  }
  placement.stored.push_back(std::move(stored));
  return placement;
}

TEST(DiffPlacementsTest, CutsMakeNoDifference) {
  EXPECT_THAT(DiffPlacements(Stack("s", {{0, 8}}),
                             Stack("s", {{0, 3}, {3, 4}, {4, 8}})),
              IsEmpty());
}

TEST(DiffPlacementsTest, WhatDiffersIsNamed) {
  const auto whole = Stack("s", {{0, 4}});
  EXPECT_THAT(DiffPlacements(whole, Stack("t", {{0, 4}})),
              ElementsAre(StoredDifference{"s", "held", "yes", "no"},
                          StoredDifference{"t", "held", "no", "yes"}));
  EXPECT_THAT(DiffPlacements(whole, Stack("s", {{0, 4}}, tensor::DType::kF32)),
              ElementsAre(StoredDifference{"s", "dtype", "BF16", "F32"}));
  EXPECT_THAT(DiffPlacements(whole, Stack("s", {{4, 8}})),
              ElementsAre(StoredDifference{"s", "boxes", "w [0,4)x[0,4)",
                                           "w [4,8)x[0,4)"}));
  EXPECT_THAT(DiffPlacements(whole, Stack("s", {{0, 5}})),
              ElementsAre(StoredDifference{"s", "shape", "[4,4]", "[5,4]"},
                          StoredDifference{"s", "boxes", "w [0,4)x[0,4)",
                                           "w [0,5)x[0,4)"}));
  // The same rows, the halves swapped.
  const auto swapped = DiffPlacements(whole, Stack("s", {{2, 4}, {0, 2}}));
  ASSERT_EQ(swapped.size(), 1u);
  EXPECT_EQ(swapped[0].what, "places");
  auto transformed = whole;
  transformed.stored[0].fragments[0].transform = tensor::Transform::kPlusOne;
  EXPECT_THAT(DiffPlacements(whole, transformed),
              ElementsAre(StoredDifference{"s", "boxes", "w [0,4)x[0,4)",
                                           "w [0,4)x[0,4) as x + 1"}));
}

TEST(DiffPlacementsTest, SourcesAreComparedByBytes) {
  const auto target = Stack("s", {{0, 8}});
  const auto plan_of =
      [](const std::vector<std::pair<int64_t, tensor::Range>>& from) {
        CompactPlan plan;
        for (const auto& [rank, rows] : from) {
          MoveSeries series;
          series.src_rank = rank;
          series.box = Rows(rows.begin, rows.end);
          plan.series.push_back(series);
        }
        return plan;
      };
  const CompactPlan halves = plan_of({{0, {0, 4}}, {1, {4, 8}}});
  EXPECT_THAT(DiffSources(halves, target, halves, target), IsEmpty());
  EXPECT_THAT(
      DiffSources(halves, target, plan_of({{3, {0, 8}}}), target),
      ElementsAre(StoredDifference{"s", "sources", "rank 0: 32 B, rank 1: 32 B",
                                   "rank 3: 64 B"}));
  // Two moves as one series are the same bytes.
  CompactPlan series = plan_of({{0, {0, 8}}});
  series.series[0].num_moves = 2;
  series.series[0].rank_step = 1;
  series.series[0].head = series.series[0].chunk = 4;
  EXPECT_THAT(DiffSources(halves, target, series, target), IsEmpty());
}

}  // namespace
}  // namespace weft::plan
