// W26, W14 and W16: the rules of the frameworks by themselves.

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/fsdp_layout.h"
#include "weft/recipe/megatron_stages.h"
#include "weft/recipe/vllm_stages.h"

namespace weft::recipe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Layer counts of all stages; fails unless each begins where the last ended.
template <typename StageLayers>
std::vector<int64_t> Counts(int64_t num_layers, int64_t pp,
                            StageLayers stage_layers) {
  std::vector<int64_t> counts;
  int64_t next = 0;
  for (int64_t stage = 0; stage < pp; ++stage) {
    const tensor::Range range = stage_layers(stage);
    EXPECT_EQ(range.begin, next) << "stage " << stage;
    next = range.end;
    counts.push_back(range.extent());
  }
  EXPECT_EQ(next, num_layers);
  return counts;
}

std::vector<int64_t> MegatronCounts(const MegatronStages& stages) {
  return Counts(stages.num_layers, stages.pp, [&](int64_t stage) {
    return MegatronStageLayers(stages, stage).value();
  });
}

std::string MegatronError(const MegatronStages& stages) {
  return std::string(MegatronStageLayers(stages, 0).status().message());
}

std::vector<int64_t> VllmCounts(int64_t num_layers, int64_t pp) {
  return Counts(num_layers, pp, [&](int64_t stage) {
    return VllmStageLayers(num_layers, pp, stage);
  });
}

TEST(MegatronStagesTest, W26) {
  EXPECT_THAT(MegatronCounts({.num_layers = 8, .pp = 2}), ElementsAre(4, 4));
  EXPECT_THAT(
      MegatronCounts({.num_layers = 10, .pp = 4, .first = 2, .last = 2}),
      ElementsAre(2, 3, 3, 2));
}

TEST(MegatronStagesTest, FirstOrLastAlone) {
  EXPECT_THAT(MegatronCounts({.num_layers = 7, .pp = 2, .first = 3}),
              ElementsAre(3, 4));
  EXPECT_THAT(MegatronCounts({.num_layers = 7, .pp = 3, .last = 1}),
              ElementsAre(3, 3, 1));
  EXPECT_THAT(MegatronCounts({.num_layers = 7, .pp = 3, .first = 1}),
              ElementsAre(1, 3, 3));
  EXPECT_THAT(MegatronCounts({.num_layers = 5, .pp = 2, .first = 1, .last = 4}),
              ElementsAre(1, 4));
}

TEST(MegatronStagesTest, Refuses) {
  EXPECT_THAT(MegatronError({.num_layers = 10, .pp = 4}),
              HasSubstr("pp=4 does not divide num_hidden_layers=10"));
  EXPECT_THAT(MegatronError({.num_layers = 10, .pp = 1, .first = 10}),
              HasSubstr("first=10 with pp=1"));
  EXPECT_THAT(MegatronError({.num_layers = 10, .pp = 4, .first = 11}),
              HasSubstr("first=11 is more than num_hidden_layers=10"));
  EXPECT_THAT(
      MegatronError(
          {.num_layers = 10, .pp = 4, .first = INT64_MAX, .last = INT64_MAX}),
      HasSubstr("is more than num_hidden_layers=10"));
  EXPECT_THAT(MegatronError({.num_layers = 10, .pp = 4, .first = 2, .last = 3}),
              HasSubstr("first=2 and last=3 with pp=4 leaves 5 of "
                        "num_hidden_layers=10 for 2 stages"));
  // Stages without layers, layers without a stage.
  EXPECT_THAT(MegatronError({.num_layers = 10, .pp = 3, .first = 5, .last = 5}),
              HasSubstr("leaves 0 of num_hidden_layers=10 for 1 stages"));
  EXPECT_THAT(MegatronError({.num_layers = 10, .pp = 2, .first = 5, .last = 4}),
              HasSubstr("leaves 1 of num_hidden_layers=10 for 0 stages"));
}

TEST(VllmStagesTest, W26) {
  EXPECT_THAT(VllmCounts(10, 4), ElementsAre(2, 3, 3, 2));
  EXPECT_THAT(VllmCounts(61, 4), ElementsAre(15, 15, 16, 15));
  EXPECT_THAT(VllmCounts(61, 8), ElementsAre(7, 7, 8, 8, 8, 8, 8, 7));
  EXPECT_THAT(VllmCounts(36, 8), ElementsAre(4, 4, 4, 5, 5, 5, 5, 4));
  EXPECT_THAT(VllmCounts(94, 4), ElementsAre(23, 24, 24, 23));
}

TEST(VllmStagesTest, FirstStageGrowsLast) {
  EXPECT_THAT(VllmCounts(7, 4), ElementsAre(2, 2, 2, 1));
  EXPECT_THAT(VllmCounts(5, 4), ElementsAre(1, 1, 2, 1));
  EXPECT_THAT(VllmCounts(2, 4), ElementsAre(0, 1, 1, 0));
  EXPECT_THAT(VllmCounts(3, 1), ElementsAre(3));
}

tensor::Box BoxOf(std::vector<int64_t> shape, TpCut cut, FsdpCoordinates at) {
  return FsdpBox(shape, cut, at).value();
}

TEST(FsdpLayoutTest, W14Chunks) {
  const auto extents = [](int64_t num_rows, int64_t shard) {
    std::vector<int64_t> result;
    for (int64_t rank = 0; rank < shard; ++rank) {
      result.push_back(
          BoxOf({num_rows}, TpCut::kNone, {.shard = shard, .shard_rank = rank})
              .extent(0));
    }
    return result;
  };
  EXPECT_THAT(extents(10, 4), ElementsAre(3, 3, 3, 1));
  EXPECT_THAT(extents(5, 4), ElementsAre(2, 2, 1, 0));
  EXPECT_THAT(extents(9, 8), ElementsAre(2, 2, 2, 2, 1, 0, 0, 0));
  EXPECT_THAT(extents(1, 4), ElementsAre(1, 0, 0, 0));
}

TEST(FsdpLayoutTest, W16RowsOfTheUnevenTrap) {
  const auto rows = [](int64_t shard_rank, int64_t tp_rank) {
    return BoxOf({9, 2}, TpCut::kRows,
                 {.shard = 4,
                  .shard_rank = shard_rank,
                  .tp = 2,
                  .tp_rank = tp_rank})
        .range(0);
  };
  EXPECT_EQ(rows(0, 0), (tensor::Range{0, 2}));
  EXPECT_EQ(rows(0, 1), (tensor::Range{5, 6}));
  EXPECT_EQ(rows(2, 0), (tensor::Range{4, 5}));
  EXPECT_EQ(rows(3, 0).extent(), 0);
  EXPECT_EQ(rows(3, 1), (tensor::Range{8, 9}));
}

TEST(FsdpLayoutTest, ColumnsAndReplicas) {
  const FsdpCoordinates at{.shard = 2, .shard_rank = 1, .tp = 2, .tp_rank = 1};
  EXPECT_EQ(BoxOf({4, 6}, TpCut::kColumns, at).ToString(), "[2,4)x[3,6)");
  EXPECT_EQ(BoxOf({4, 6}, TpCut::kNone, at).ToString(), "[2,4)x[0,6)");
  EXPECT_EQ(BoxOf({4, 5}, TpCut::kColumns, at).ToString(), "[2,4)x[3,5)");
  EXPECT_FALSE(FsdpBox({}, TpCut::kNone, at).ok());
  EXPECT_FALSE(FsdpBox({4}, TpCut::kColumns, at).ok());
}

}  // namespace
}  // namespace weft::recipe
