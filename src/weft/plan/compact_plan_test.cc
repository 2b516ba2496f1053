// Series of moves against plans of single moves and the element-by-element
// oracle, on meshes that cut tensors as FSDP does.
#include "weft/plan/compact_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "weft/plan/testing/plan_oracle.h"
#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;
using testing::MakeBox;
using testing::OneIn;
using testing::Pick;
using testing::Rng;
using testing::World;

// Row shards of torch.chunk over `shards`, each row shard cut into `cols`
// columns; rank (replica * shards + shard) * cols + column. Some tensors are
// cut by columns first and then by rows within (_StridedShard).
World ShardedWorld(Rng& rng, bool replicas) {
  World world;
  const int64_t shards = Pick(rng, 1, 9);
  const int64_t cols = OneIn(rng, 3) ? Pick(rng, 2, 3) : 1;
  const int64_t copies = replicas ? Pick(rng, 1, 3) : 1;
  world.sources = testing::EmptyMesh("source", shards * cols * copies);
  world.targets = testing::EmptyMesh("target", Pick(rng, 1, 3));
  const int64_t num_tensors = Pick(rng, 1, 4);
  for (int64_t t = 0; t < num_tensors; ++t) {
    tensor::Shape shape = {OneIn(rng, 4) ? Pick(rng, 60, 200)
                                         : Pick(rng, 1, 30)};
    if (OneIn(rng, 2)) shape.push_back(Pick(rng, 1, 6));
    if (OneIn(rng, 4)) shape.push_back(Pick(rng, 1, 4));
    const auto tensor = static_cast<int32_t>(t);
    world.tensors.push_back(
        {{absl::StrCat("t.", t), tensor::DType::kBF16, shape}, 1});
    const tensor::DType dtype = testing::PickFloat(rng);
    const bool strided = OneIn(rng, 3);
    for (size_t r = 0; r < world.sources.size(); ++r) {
      const auto rank = static_cast<int64_t>(r);
      const int64_t col = rank % cols;
      const int64_t shard = rank / cols % shards;
      tensor::Box box = testing::WholeBox(world, tensor);
      if (strided) {
        const tensor::Range outer = testing::Chunk(shape[0], cols, col);
        const tensor::Range inner =
            testing::Chunk(outer.extent(), shards, shard);
        box = box.WithRange(
            0, {outer.begin + inner.begin, outer.begin + inner.end});
      } else {
        box = box.WithRange(0, testing::Chunk(shape[0], shards, shard));
        if (shape.size() > 1) {
          box = box.WithRange(1, testing::Chunk(shape[1], cols, col));
        } else if (col > 0 && !replicas) {
          continue;
        }
      }
      testing::AddBox(world, world.sources[r], tensor, box, dtype, false, 0,
                      false);
    }
    testing::SpreadTarget(world, rng, tensor);
  }
  for (size_t r = 0; r < world.sources.size(); ++r) {
    world.distances.push_back(
        OneIn(rng, 4) ? static_cast<int32_t>(Pick(rng, 0, 1)) : 0);
  }
  return world;
}

uint64_t AnySeed() {
  const auto seed =
      *rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, uint64_t{1} << 48));
  RC_LOG("world seed " + std::to_string(seed));
  return seed;
}

World AnyWorld() {
  Rng rng(AnySeed());
  return OneIn(rng, 3) ? testing::MakeRandomWorld(rng)
                       : ShardedWorld(rng, OneIn(rng, 2));
}

TEST(CompactPlan, ExpandsToAPlanThatMakesTheTarget) {
  ASSERT_TRUE(rc::check("expand == oracle", [] {
    const World world = AnyWorld();
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    if (!index.ok()) RC_FAIL(index.status().ToString());
    for (const testing::Rank& target : world.targets) {
      const auto compact = BuildCompactPlan(**index, target.placement, {}, {});
      if (!compact.ok()) RC_FAIL(compact.status().ToString());
      const absl::Status checked =
          CheckCompactPlan(*compact, **index, target.placement, {});
      if (!checked.ok()) RC_FAIL(checked.ToString());
      const auto plan = ExpandPlan(*compact, **index, target.placement, {});
      if (!plan.ok()) RC_FAIL(plan.status().ToString());
      RC_ASSERT(testing::CompareWithOracle(*plan, world, target) == "");
      RC_ASSERT(CheckCoverage(*plan, **index, target.placement).ok());
      // Sums over the moves, one by one, are the sums over the series.
      RC_ASSERT(plan->totals == compact->totals);
      RC_ASSERT(plan->conversions == compact->conversions);
      RC_ASSERT(plan->zero_fills == compact->zero_fills);
      RC_ASSERT(plan->peers.size() == compact->peers.size());
      for (size_t p = 0; p < plan->peers.size(); ++p) {
        const PeerPlan& peer = plan->peers[p];
        const PeerTraffic& traffic = compact->peers[p];
        RC_ASSERT(peer.src_rank == traffic.src_rank);
        RC_ASSERT(static_cast<int64_t>(peer.moves.size()) == traffic.moves);
        RC_ASSERT(peer.src_bytes == traffic.src_bytes);
        RC_ASSERT(peer.dst_bytes == traffic.dst_bytes);
        RC_ASSERT(peer.witness_bytes == traffic.witness_bytes);
      }
    }
  }));
}

using MoveKey = std::tuple<int64_t, int32_t, int32_t, int32_t, int32_t,
                           std::vector<std::pair<int64_t, int64_t>>>;

MoveKey KeyOf(int64_t rank, int32_t src_stored, int32_t src_fragment,
              int32_t dst_stored, int32_t dst_fragment,
              const tensor::Box& box) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const tensor::Range& range : box.ranges()) {
    ranges.emplace_back(range.begin, range.end);
  }
  return {rank, src_stored, src_fragment, dst_stored, dst_fragment, ranges};
}

// Where each element has one holder there is one plan: a move for each pair of
// fragments that meet.
TEST(CompactPlan, IsOneMoveForEachPairOfFragmentsWithoutReplicas) {
  ASSERT_TRUE(rc::check("moves == pairs", [] {
    Rng rng(AnySeed());
    const World world = ShardedWorld(rng, /*replicas=*/false);
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    for (const testing::Rank& target : world.targets) {
      std::set<MoveKey> expected, found;
      const manifest::Placement& to = target.placement;
      for (size_t i = 0; i < to.stored.size(); ++i) {
        for (size_t f = 0; f < to.stored[i].fragments.size(); ++f) {
          const layout::Fragment& dst = to.stored[i].fragments[f];
          for (const testing::Rank& source : world.sources) {
            const manifest::Placement& from = source.placement;
            for (size_t s = 0; s < from.stored.size(); ++s) {
              const layout::Fragment& src = from.stored[s].fragments[0];
              if (from.tensors[src.tensor].name != to.tensors[dst.tensor].name)
                continue;
              const tensor::Box box =
                  tensor::Intersect(src.map.box(), dst.map.box());
              if (box.empty()) continue;
              expected.insert(KeyOf(from.rank, static_cast<int32_t>(s), 0,
                                    static_cast<int32_t>(i),
                                    static_cast<int32_t>(f), box));
            }
          }
        }
      }
      const auto compact = BuildCompactPlan(**index, to, {}, {});
      RC_ASSERT(compact.ok());
      for (const MoveSeries& series : compact->series) {
        for (int64_t m = 0; m < series.num_moves; ++m) {
          found.insert(KeyOf(series.RankOf(m), series.src_stored,
                             series.src_fragment, series.dst_stored,
                             series.dst_fragment, series.BoxOf(m)));
          RC_ASSERT(series.ElementsOf(m) == series.BoxOf(m).num_elements());
        }
      }
      RC_ASSERT(found == expected);
      RC_ASSERT(compact->totals.moves == static_cast<int64_t>(expected.size()));
    }
  }));
}

// Two tensors over 64 ranks: [1000, 8] in chunks of 16 rows, of which the last
// rank that has any has 8, and [8, 4], which 56 ranks hold nothing of.
struct Fsdp {
  Fsdp() {
    world.sources = testing::EmptyMesh("fsdp", 64);
    world.targets = testing::EmptyMesh("target", 1);
    world.tensors.push_back({{"large", tensor::DType::kBF16, {1000, 8}}, 1});
    world.tensors.push_back({{"small", tensor::DType::kBF16, {8, 4}}, 1});
    for (int32_t t = 0; t < 2; ++t) {
      for (int64_t r = 0; r < 64; ++r) {
        testing::AddBox(world, world.sources[r], t,
                        testing::ChunkBox(world, t, 0, 64, r),
                        tensor::DType::kBF16, false, 0, false);
      }
    }
    testing::AddBox(world, world.targets[0], 0, MakeBox({{10, 995}, {0, 8}}),
                    tensor::DType::kBF16, false, 0, true);
    testing::AddBox(world, world.targets[0], 1, MakeBox({{0, 8}, {0, 4}}),
                    tensor::DType::kBF16, false, 0, true);
    index = SourceIndex::Make(testing::InfosOf(world)).value();
    plan = BuildCompactPlan(*index, target(), {}, {}).value();
  }
  const manifest::Placement& target() const {
    return world.targets[0].placement;
  }
  absl::Status Check() const {
    return CheckCompactPlan(plan, *index, target(), {});
  }

  World world;
  std::shared_ptr<const SourceIndex> index;
  CompactPlan plan;
};

TEST(CompactPlan, KeepsOneSeriesATensor) {
  const Fsdp fsdp;
  ASSERT_EQ(fsdp.plan.series.size(), 2u);
  const MoveSeries& large = fsdp.plan.series[0];
  EXPECT_EQ(large.num_moves, 63);
  EXPECT_EQ(large.src_rank, 0);
  EXPECT_EQ(large.rank_step, 1);
  EXPECT_EQ(large.head, 6);
  EXPECT_EQ(large.chunk, 16);
  EXPECT_EQ(large.BoxOf(0), MakeBox({{10, 16}, {0, 8}}));
  EXPECT_EQ(large.BoxOf(1), MakeBox({{16, 32}, {0, 8}}));
  EXPECT_EQ(large.BoxOf(62), MakeBox({{992, 995}, {0, 8}}));
  EXPECT_EQ(fsdp.plan.series[1].num_moves, 8);
  EXPECT_EQ(fsdp.plan.totals.moves, 71);
  EXPECT_EQ(fsdp.plan.totals.src_bytes, (985 * 8 + 32) * 2);
  EXPECT_EQ(fsdp.plan.peers.size(), 63u);
  EXPECT_TRUE(fsdp.Check().ok()) << fsdp.Check();
}

TEST(CompactPlan, RefusesSpoiledPlans) {
  struct Case {
    const char* what;
    void (*spoil)(CompactPlan&);
    const char* message;
  };
  const Case cases[] = {
      {"a series is missing", [](CompactPlan& p) { p.series.pop_back(); },
       "nothing writes [0,8)x[0,4)"},
      {"a series is there twice",
       [](CompactPlan& p) { p.series.push_back(p.series[1]); }, "follows"},
      {"the order is another",
       [](CompactPlan& p) { std::swap(p.series[0], p.series[1]); }, "follows"},
      {"a move is missing", [](CompactPlan& p) { --p.series[0].num_moves; },
       "is not 62 moves"},
      {"a move more than there is",
       [](CompactPlan& p) { ++p.series[0].num_moves; }, "is not 64 moves"},
      {"the ranks are shifted", [](CompactPlan& p) { ++p.series[0].src_rank; },
       "is not what stored tensor 0"},
      {"the ranks have another step",
       [](CompactPlan& p) { p.series[0].rank_step = 2; },
       "is not what stored tensor 0"},
      {"another cut", [](CompactPlan& p) { p.series[0].head = 7; },
       "is not what stored tensor 0"},
      {"another chunk", [](CompactPlan& p) { p.series[0].chunk = 1000; },
       "is not 63 moves"},
      {"another dimension", [](CompactPlan& p) { p.series[0].dim = 1; },
       "is not 63 moves"},
      {"a dimension that is not", [](CompactPlan& p) { p.series[0].dim = -1; },
       "is not 63 moves"},
      {"another stored tensor",
       [](CompactPlan& p) { p.series[0].src_stored = 1; },
       "is not what stored tensor 1"},
      {"no such fragment", [](CompactPlan& p) { p.series[0].dst_fragment = 1; },
       "which target rank 0 lacks"},
      {"no such tensor", [](CompactPlan& p) { p.series[0].tensor = 2; },
       "which target rank 0 lacks"},
      {"another tensor", [](CompactPlan& p) { p.series[0].tensor = 1; },
       "does not lie in the target's"},
      {"a value is changed on the way",
       [](CompactPlan& p) {
         p.series[0].conversion.transform = tensor::Transform::kPlusOne;
       },
       "is not what stored tensor 0"},
      {"a hole",
       [](CompactPlan& p) {
         p.series[0].box = MakeBox({{10, 990}, {0, 8}});
         p.series[0].num_moves = 62;
       },
       "nothing writes [990,995)"},
      {"too far",
       [](CompactPlan& p) {
         p.series[0].box = MakeBox({{10, 996}, {0, 8}});
       },
       "does not lie in the target's"},
      {"a zero fill that is not declared",
       [](CompactPlan& p) {
         p.zero_fills.push_back({0, MakeBox({{0, 1}, {0, 8}})});
       },
       "not declared"},
      {"bytes of a rank", [](CompactPlan& p) { ++p.peers[3].src_bytes; },
       "is not what its series send"},
      {"totals", [](CompactPlan& p) { ++p.totals.runs; }, "the totals of"},
      {"another receiver", [](CompactPlan& p) { p.target_rank = 3; },
       "is for target rank 3"},
      {"other sources", [](CompactPlan& p) { p.source_digest.bytes[0] ^= 1; },
       "the plan is for sources"},
  };
  for (const Case& each : cases) {
    Fsdp fsdp;
    each.spoil(fsdp.plan);
    const absl::Status status = fsdp.Check();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition)
        << each.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(each.message))
        << each.what;
  }
}

// Near ranks are another series than far ones, so that "nearest" holds for
// each move.
TEST(CompactPlan, DistanceCutsASeries) {
  Fsdp fsdp;
  for (int64_t r = 0; r < 64; ++r) {
    fsdp.world.distances.push_back(r >= 16 && r < 24 ? 0 : 1);
  }
  const auto index = SourceIndex::Make(testing::InfosOf(fsdp.world));
  const auto plan = BuildCompactPlan(**index, fsdp.target(), {}, {});
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->series.size(), 4u);
  EXPECT_EQ(plan->series[1].src_rank, 16);
  EXPECT_EQ(plan->series[1].num_moves, 8);
}

// A rank that has not published leaves a hole of its chunk, not a shift.
TEST(CompactPlan, AMissingRankIsAHole) {
  Fsdp fsdp;
  std::vector<SourceInfo> infos = testing::InfosOf(fsdp.world);
  infos.erase(infos.begin() + 5);
  const auto index = SourceIndex::Make(infos);
  const absl::Status status =
      BuildCompactPlan(**index, fsdp.target(), {}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("no source holds [80,96)x[0,8) of \"large\""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("source ranks 5 of 64"));
}

TEST(CompactPlan, CountsRunsAgainstTheLimit) {
  const Fsdp fsdp;
  PlanLimits limits;
  limits.max_runs = fsdp.plan.totals.runs - 1;
  const absl::Status status =
      BuildCompactPlan(*fsdp.index, fsdp.target(), {}, limits).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"small\""));
}

}  // namespace
}  // namespace weft::plan
