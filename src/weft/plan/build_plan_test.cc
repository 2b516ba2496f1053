// What BuildPlan refuses and how it chooses, on small meshes made by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "weft/plan/explain.h"
#include "weft/plan/plan.h"
#include "weft/plan/testing/plan_oracle.h"
#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using tensor::DType;
using ::testing::HasSubstr;
using testing::MakeBox;
using ::testing::Not;
using testing::World;

// `num_sources` by `num_targets` ranks and no tensors yet.
World Mesh(int64_t num_sources, int64_t num_targets) {
  World world;
  world.sources = testing::EmptyMesh("source", num_sources);
  world.targets = testing::EmptyMesh("target", num_targets);
  return world;
}

int32_t AddTensor(World& world, const std::string& name, tensor::Shape shape) {
  world.tensors.push_back({{name, DType::kBF16, std::move(shape)}, 1});
  return static_cast<int32_t>(world.tensors.size() - 1);
}

void Hold(World& world, testing::Rank& rank, int32_t tensor,
          const tensor::Box& box, DType dtype = DType::kBF16) {
  testing::AddBox(world, rank, tensor, box, dtype, false, 0, true);
}

absl::StatusOr<Plan> PlanFor(const World& world, size_t target,
                             const PlanLimits& limits = PlanLimits()) {
  const auto index = SourceIndex::Make(testing::InfosOf(world));
  if (!index.ok()) return index.status();
  const manifest::Placement& placement = world.targets[target].placement;
  return BuildPlan(**index, placement, testing::DigestOfPlacement(placement),
                   limits);
}

TEST(BuildPlan, NamesHolesAndMissingRanks) {
  World world = Mesh(4, 2);
  const int32_t x = AddTensor(world, "model.x", {576, 576});
  const int32_t y = AddTensor(world, "model.y", {8});
  for (int64_t r = 0; r < 4; ++r) {
    Hold(world, world.sources[r], x, testing::ChunkBox(world, x, 0, 4, r));
  }
  Hold(world, world.targets[1], x, MakeBox({{0, 300}, {0, 576}}));
  Hold(world, world.targets[1], y, MakeBox({{0, 8}}));
  world.sources.erase(world.sources.begin() + 1);
  const auto plan = PlanFor(world, 1);
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(plan.status().message(),
            "no source holds [144,288)x[0,576) of \"model.x\" needed by target "
            "rank 1; source ranks 1 of 4 have not published; no source holds "
            "[0,8) of \"model.y\" needed by target rank 1; source ranks 1 of 4 "
            "have not published");
}

TEST(BuildPlan, SaysWhenAllHavePublished) {
  World world = Mesh(1, 1);
  const int32_t x = AddTensor(world, "x", {4});
  Hold(world, world.targets[0], x, MakeBox({{0, 4}}));
  EXPECT_THAT(std::string(PlanFor(world, 0).status().message()),
              HasSubstr("all 1 source ranks have published"));
}

TEST(BuildPlan, RefusesAnotherShapeAndReportsTheRestToo) {
  World world = Mesh(1, 1);
  const int32_t x = AddTensor(world, "x", {4, 8});
  const int32_t y = AddTensor(world, "y", {4});
  const int32_t z = AddTensor(world, "z", {2});
  Hold(world, world.sources[0], x, MakeBox({{0, 4}, {0, 8}}));
  Hold(world, world.sources[0], y, MakeBox({{0, 4}}), DType::kI32);
  world.tensors[x].spec.shape = {8, 4};
  Hold(world, world.targets[0], x, MakeBox({{0, 8}, {0, 4}}));
  Hold(world, world.targets[0], y, MakeBox({{0, 4}}));
  Hold(world, world.targets[0], z, MakeBox({{0, 2}}));
  const absl::Status status = PlanFor(world, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("tensor \"x\" has shape [4,8] at source rank "
                                 "0 but [8,4] at target rank 0"));
  EXPECT_THAT(message, HasSubstr("I32 -> BF16"));
  EXPECT_THAT(message, HasSubstr("no source holds [0,2) of \"z\""));
}

TEST(BuildPlan, RefusesAConversionThatDoesNotExist) {
  World world = Mesh(1, 1);
  const int32_t y = AddTensor(world, "y", {4});
  Hold(world, world.sources[0], y, MakeBox({{0, 4}}), DType::kI32);
  Hold(world, world.targets[0], y, MakeBox({{0, 4}}));
  const absl::Status status = PlanFor(world, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"y\" is stored in"));
}

TEST(BuildPlan, ListsConversions) {
  World world = Mesh(1, 1);
  const tensor::Box box = MakeBox({{0, 4}});
  const int32_t a = AddTensor(world, "a", {4});
  const int32_t b = AddTensor(world, "b", {4});
  const int32_t c = AddTensor(world, "c", {4});
  for (const int32_t each : {a, b}) {
    Hold(world, world.sources[0], each, box, DType::kF32);
    Hold(world, world.targets[0], each, box, DType::kBF16);
  }
  Hold(world, world.sources[0], c, box, DType::kF16);
  Hold(world, world.targets[0], c, box, DType::kF32);
  const auto plan = PlanFor(world, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::vector<ConversionUse> expected = {
      {{DType::kF16, DType::kF32}, false, 1, 4},
      {{DType::kF32, DType::kBF16}, true, 2, 8}};
  EXPECT_EQ(plan->conversions, expected);
  EXPECT_EQ(plan->totals.src_bytes, 2 * 16 + 8);
  EXPECT_EQ(plan->totals.dst_bytes, 2 * 8 + 16);
}

TEST(BuildPlan, PrefersTheReplicaThatNeedsNoConversion) {
  World world = Mesh(2, 1);
  const int32_t a = AddTensor(world, "a", {4});
  Hold(world, world.sources[0], a, MakeBox({{0, 4}}), DType::kF32);
  Hold(world, world.sources[1], a, MakeBox({{0, 4}}));
  Hold(world, world.targets[0], a, MakeBox({{0, 4}}));
  world.distances = {0, 7};
  const auto plan = PlanFor(world, 0);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->peers[0].src_rank, 1);
  EXPECT_TRUE(plan->conversions.empty());
}

TEST(BuildPlan, PrefersTheNearest) {
  World world = Mesh(4, 4);
  for (int i = 0; i < 6; ++i) {
    const int32_t x = AddTensor(world, "x" + std::to_string(i), {16, 4});
    for (auto& rank : world.sources) {
      Hold(world, rank, x, testing::WholeBox(world, x));
    }
    for (auto& rank : world.targets) {
      Hold(world, rank, x, testing::WholeBox(world, x));
    }
  }
  world.distances = {3, 1, 2, 1};
  for (size_t t = 0; t < 4; ++t) {
    const auto plan = PlanFor(world, t);
    ASSERT_TRUE(plan.ok());
    ASSERT_EQ(plan->peers.size(), 2u);  // both of the nearest
    EXPECT_EQ(plan->peers[0].src_rank, 1);
    EXPECT_EQ(plan->peers[1].src_rank, 3);
  }
}

// Replicas by data parallelism, one tensor a receiver or many.
TEST(BuildPlan, SpreadsReceiversOverReplicas) {
  for (const int num_tensors : {1, 7, 40}) {
    World world = Mesh(8, 16);
    for (int i = 0; i < num_tensors; ++i) {
      const int32_t x =
          AddTensor(world, "x" + std::to_string(i), {32, 1 + i % 5});
      for (int64_t r = 0; r < 8; ++r) {  // two shards, four replicas
        Hold(world, world.sources[r], x,
             testing::ChunkBox(world, x, 0, 2, r % 2));
      }
      for (auto& rank : world.targets) {
        Hold(world, rank, x, testing::WholeBox(world, x));
      }
    }
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    ASSERT_TRUE(index.ok());
    FleetMeter meter(**index, nullptr);
    for (const testing::Rank& target : world.targets) {
      meter.Add(*BuildCompactPlan(**index, target.placement, {}, {}),
                target.placement);
    }
    const FleetLoad load = meter.Finish();
    EXPECT_LE(load.max_over_mean, 1.3) << num_tensors << " tensors";
  }
}

TEST(BuildPlan, RefusesMoreRunsThanAllowed) {
  World world = Mesh(1, 1);
  for (int i = 0; i < 3; ++i) {
    const int32_t x = AddTensor(world, "x" + std::to_string(i), {4});
    Hold(world, world.sources[0], x, MakeBox({{0, 4}}));
    Hold(world, world.targets[0], x, MakeBox({{0, 4}}));
  }
  PlanLimits limits;
  limits.max_runs = 3;
  EXPECT_TRUE(PlanFor(world, 0, limits).ok());
  limits.max_runs = 2;
  const absl::Status status = PlanFor(world, 0, limits).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"x2\""));
}

TEST(BuildPlan, RefusesLimitsWithoutMeaning) {
  World world = Mesh(1, 1);
  PlanLimits limits;
  limits.max_runs = 0;
  limits.staging_bytes = 100;
  const absl::Status status = PlanFor(world, 0, limits).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("staging_bytes is 100"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_runs is 0"));
}

TEST(BuildPlan, StagingIsBoundedByTheLimitAndByNeed) {
  World world = Mesh(1, 1);
  const int32_t x = AddTensor(world, "x", {100, 200});
  Hold(world, world.sources[0], x, testing::WholeBox(world, x));
  Hold(world, world.targets[0], x, MakeBox({{0, 100}, {0, 100}}));
  EXPECT_EQ(PlanFor(world, 0)->totals.peak_staging_bytes, 20000);
  PlanLimits limits;
  limits.staging_bytes = 4096;
  EXPECT_EQ(PlanFor(world, 0, limits)->totals.peak_staging_bytes, 4096);
}

TEST(BuildPlan, PlansNothingForAnEmptyTarget) {
  World world = Mesh(2, 1);
  const auto plan = PlanFor(world, 0);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->peers.empty());
  EXPECT_EQ(plan->totals, PlanTotals());
}

TEST(BuildPlan, RefusesATargetWithoutASize) {
  World world = Mesh(1, 1);
  layout::StoredTensor stored;
  stored.name = "huge";
  stored.shape = {int64_t{1} << 61};
  world.targets[0].placement.stored.push_back(stored);
  EXPECT_EQ(PlanFor(world, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// A dense model of `layers` layers: sources cut rows FSDP-like into `shards`
// chunks, targets hold fused, row-cut parts. Printed, not asserted.
TEST(BuildPlanSpeed, IsPrinted) {
  constexpr int64_t kShards = 16, kTargets = 8, kLayers = 80;
  World world = Mesh(kShards, kTargets);
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (int part = 0; part < 9; ++part) {
      AddTensor(world, absl::StrCat("model.layers.", layer, ".part", part),
                {4096, 8192});
    }
  }
  // Labels would need the memory of the model: placements only.
  for (size_t t = 0; t < world.tensors.size(); ++t) {
    const auto tensor = static_cast<int32_t>(t);
    const auto add = [&](testing::Rank& rank, const tensor::Box& box) {
      layout::StoredTensor stored;
      stored.name = world.tensors[t].spec.name;
      stored.shape = box.shape();
      const tensor::Shape origin(2, 0);
      stored.fragments.push_back(
          {tensor, *layout::IndexMap::RowMajor(box, stored.shape, origin)});
      rank.placement.tensors.push_back(world.tensors[t].spec);
      rank.placement.stored.push_back(std::move(stored));
    };
    for (int64_t r = 0; r < kShards; ++r) {
      add(world.sources[r], testing::ChunkBox(world, tensor, 0, kShards, r));
    }
    add(world.targets[0],
        testing::ChunkBox(world, tensor, t % 3 == 0 ? 1 : 0, 1, 0));
    add(world.targets[1], testing::ChunkBox(world, tensor, 1, kTargets, 1));
  }
  // Time of this process alone: the machine may be busy.
  const auto now = [] {
    return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  };
  const auto ms = [](double from, double to) { return to - from; };
  const auto infos = testing::InfosOf(world);
  const auto start = now();
  const auto index = SourceIndex::Make(infos);
  const auto indexed = now();
  ASSERT_TRUE(index.ok());
  std::printf("index of %lld ranks: %.2f ms\n", static_cast<long long>(kShards),
              ms(start, indexed));
  for (const size_t t : {size_t{0}, size_t{1}}) {
    double best_build = 1e9, best_check = 1e9;
    int64_t moves = 0;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const manifest::Placement& target = world.targets[t].placement;
      const auto begin = now();
      const auto plan =
          BuildPlan(**index, target, manifest::LayoutDigest(), PlanLimits());
      const auto built = now();
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_TRUE(CheckCoverage(*plan, **index, target).ok());
      best_build = std::min(best_build, ms(begin, built));
      best_check = std::min(best_check, ms(built, now()));
      moves = plan->totals.moves;
    }
    std::printf("plan of %lld moves: %.2f ms, of that the check %.2f ms\n",
                static_cast<long long>(moves), best_build, best_check);
  }
}

}  // namespace
}  // namespace weft::plan
