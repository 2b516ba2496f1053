// W13, W14, W16, W17 and W26: the rules of the frameworks by themselves.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/expert_placement.h"
#include "weft/recipe/fsdp_layout.h"
#include "weft/recipe/megatron_stages.h"
#include "weft/recipe/sglang_stages.h"
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
    return MegatronStageChunks(stages, stage).value().at(0).layers;
  });
}

std::string MegatronError(const MegatronStages& stages) {
  return std::string(MegatronStageChunks(stages, 0).status().message());
}

// "E0-1 2-3L" for the chunks of each stage.
std::vector<std::string> MegatronChunks(const MegatronStages& stages) {
  std::vector<std::string> texts;
  for (int64_t stage = 0; stage < stages.pp; ++stage) {
    std::string& text = texts.emplace_back();
    const auto chunks = MegatronStageChunks(stages, stage);
    EXPECT_TRUE(chunks.ok()) << chunks.status();
    if (!chunks.ok()) continue;
    for (const StageChunk& chunk : *chunks) {
      absl::StrAppend(&text, text.empty() ? "" : " ", chunk.first ? "E" : "",
                      chunk.layers.begin, "-", chunk.layers.end - 1,
                      chunk.mtp ? "m" : "", chunk.last ? "L" : "");
    }
  }
  return texts;
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

TEST(MegatronStagesTest, W26VirtualStages) {
  EXPECT_THAT(MegatronChunks({.num_layers = 8, .pp = 2, .vpp = 2}),
              ElementsAre("E0-1 4-5", "2-3 6-7mL"));
  // First and last stage: 2 and 4 of 14 layers, the two between 4 each; half
  // of each belongs to a chunk.
  EXPECT_THAT(MegatronChunks(
                  {.num_layers = 14, .pp = 4, .vpp = 2, .first = 2, .last = 4}),
              ElementsAre("E0-0 7-7", "1-2 8-9", "3-4 10-11", "5-6 12-13mL"));
}

TEST(MegatronStagesTest, W26EmbeddingAndLossTakeALayersPlace) {
  EXPECT_THAT(MegatronCounts({.num_layers = 14,
                              .pp = 4,
                              .embedding_in_split = true,
                              .loss_in_split = true}),
              ElementsAre(3, 4, 4, 3));
  EXPECT_THAT(
      MegatronCounts({.num_layers = 7, .pp = 4, .embedding_in_split = true}),
      ElementsAre(1, 2, 2, 2));
  EXPECT_THAT(MegatronCounts({.num_layers = 7, .pp = 2, .loss_in_split = true}),
              ElementsAre(4, 3));
  // Six places in three chunks of one each.
  EXPECT_THAT(MegatronChunks({.num_layers = 6,
                              .pp = 2,
                              .vpp = 2,
                              .embedding_in_split = true,
                              .loss_in_split = true}),
              ElementsAre("E0-0 3-4", "1-2 5-5mL"));
}

TEST(MegatronStagesTest, WrittenOutLayout) {
  EXPECT_THAT(
      MegatronChunks({.num_layers = 7, .pp = 4, .layout = "Ett|(tt|)*2tmL"}),
      ElementsAre("E0-1", "2-3", "4-5", "6-6mL"));
  EXPECT_THAT(MegatronChunks({.num_layers = 8,
                              .pp = 2,
                              .vpp = 3,
                              .layout = "Et*3|t*2|"
                                        "t|t||tmL"}),
              ElementsAre("E0-2 5-5 7-6", "3-4 6-6 7-7mL"));
}

TEST(MegatronStagesTest, RefusesChunksAndLayouts) {
  EXPECT_THAT(MegatronError({.num_layers = 8, .pp = 1, .vpp = 2}),
              HasSubstr("vpp=2 with pp=1"));
  EXPECT_THAT(MegatronError({.num_layers = 6, .pp = 2, .vpp = 2}),
              HasSubstr("vpp=2 does not divide the 3 layers of stage 0"));
  EXPECT_THAT(MegatronError({.num_layers = 0, .pp = 2, .vpp = INT64_MAX}),
              HasSubstr("does not divide the 0 layers"));
  EXPECT_THAT(
      MegatronError({.num_layers = 8, .pp = 4, .embedding_in_split = true}),
      HasSubstr("pp=4 does not divide the 9 places of num_hidden_layers=8"));
  EXPECT_THAT(
      MegatronError(
          {.num_layers = 8, .pp = 4, .first = 2, .embedding_in_split = true}),
      HasSubstr("first=2 cannot go with embedding_in_split"));
  EXPECT_THAT(MegatronError({.num_layers = 0,
                             .pp = 2,
                             .vpp = 1,
                             .embedding_in_split = true,
                             .loss_in_split = true}),
              "");
  EXPECT_THAT(MegatronError({.num_layers = 8, .pp = 2, .layout = "Et*8L"}),
              HasSubstr("has 1 stages, not pp*vpp=2*1"));
  EXPECT_THAT(MegatronError({.num_layers = 8, .pp = 2, .layout = "Ett|tL"}),
              HasSubstr("has 3 layers, not num_hidden_layers=8"));
  EXPECT_THAT(MegatronError({.num_layers = 2, .pp = 2, .layout = "t|EtL"}),
              HasSubstr("needs one E, in its first stage"));
  EXPECT_THAT(MegatronError({.num_layers = 2, .pp = 2, .layout = "Et|tx"}),
              HasSubstr("the letter \"x\"; known are E, t, m, L"));
  EXPECT_THAT(MegatronError({.num_layers = 2, .pp = 2, .layout = "E(t|tL"}),
              HasSubstr("has a group that does not end"));
  for (const char* factor : {"*", "*9999999999999999999", "*99999999"}) {
    EXPECT_THAT(MegatronError({.num_layers = 2,
                               .pp = 2,
                               .layout = absl::StrCat("Et", factor, "|L")}),
                HasSubstr("has the factor"));
  }
  EXPECT_THAT(
      MegatronError({.num_layers = 2, .pp = 2, .layout = "E(t*60000|)*60000L"}),
      HasSubstr("has more than 65536 letters"));
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

TEST(SglangStagesTest, LastStagesGrowFirst) {
  const auto counts = [](int64_t num_layers, int64_t pp) {
    return Counts(num_layers, pp, [&](int64_t stage) {
      return SglangStageLayers(num_layers, pp, stage);
    });
  };
  EXPECT_THAT(counts(10, 4), ElementsAre(2, 2, 3, 3));
  EXPECT_THAT(counts(61, 4), ElementsAre(15, 15, 15, 16));
  EXPECT_THAT(counts(2, 4), ElementsAre(0, 0, 1, 1));
}

// "0 1 2 | 3" for the experts of each rank.
std::string Experts(ExpertPlacement placement, int64_t num_experts,
                    int64_t layer = 0, int64_t groups = 1) {
  std::string text;
  for (int64_t rank = 0; rank < placement.ep; ++rank) {
    placement.ep_rank = rank;
    const auto held = PlacedExperts(placement, num_experts, layer, groups);
    if (!held.ok()) return std::string(held.status().message());
    absl::StrAppend(&text, rank > 0 ? " | " : "", absl::StrJoin(*held, " "));
  }
  return text;
}

TEST(ExpertPlacementTest, W13) {
  EXPECT_EQ(Experts({.ep = 4}, 10), "0 1 2 | 3 4 5 | 6 7 | 8 9");
  const ExpertPlacement turns{.ep = 4, .round_robin = true};
  EXPECT_EQ(Experts(turns, 10, 0, 2), "0 4 8 | 1 5 9 | 2 6 | 3 7");
  EXPECT_EQ(Experts({.ep = 3, .num_redundant = 2}, 4), "0 1 | 2 3 | 0 1");
}

TEST(ExpertPlacementTest, RoundRobinNeedsGroupsAndNoBalancer) {
  EXPECT_EQ(Experts({.ep = 2, .round_robin = true}, 4), "0 1 | 2 3");
  EXPECT_EQ(
      Experts({.ep = 2, .round_robin = true, .num_redundant = 2}, 4, 0, 8),
      "0 1 2 | 3 0 1");
}

TEST(ExpertPlacementTest, Tables) {
  auto table = std::make_shared<ExpertTable>();
  table->path = "map.json";
  table->is_per_layer = true;
  table->lists = {{0, 1, 2, 0}, {2, 2, 1, 0}};
  const ExpertPlacement placement{.ep = 2, .table = table};
  EXPECT_EQ(Experts(placement, 3, 0), "0 1 | 2 0");
  EXPECT_EQ(Experts(placement, 3, 1), "2 2 | 1 0");
  EXPECT_EQ(Experts(placement, 3, 2),
            "eplb=map.json has 2 lists but none for MoE layer 2, counted from "
            "0");
  EXPECT_EQ(Experts(placement, 2, 0),
            "eplb=map.json names expert 2 in list 0 but the model has 2");
  EXPECT_EQ(Experts(placement, 4, 1),
            "eplb=map.json leaves out expert 3 in list 1 of the model's 4");
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

TEST(FsdpLayoutTest, W17Experts) {
  const auto experts = [](int64_t num_experts) {
    std::vector<std::string> texts;
    for (int64_t rank = 0; rank < 4; ++rank) {
      const tensor::Range range =
          FsdpExperts(num_experts, {.shard = 4, .shard_rank = rank, .ep = 2})
              .value();
      texts.push_back(absl::StrCat(range.begin, "-", range.end - 1));
    }
    return texts;
  };
  EXPECT_THAT(experts(8), ElementsAre("0-1", "4-5", "2-3", "6-7"));
  EXPECT_THAT(experts(6), ElementsAre("0-1", "3-4", "2-2", "5-5"));
  EXPECT_THAT(
      std::string(FsdpExperts(5, {.shard = 4, .ep = 2}).status().message()),
      HasSubstr("ep=2 does not divide the 5 experts"));
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
