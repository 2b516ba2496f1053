#include "weft/plan/explain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "weft/plan/plan.h"
#include "weft/plan/testing/plan_oracle.h"
#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;
using testing::MakeBox;
using ::testing::Not;
using testing::Rng;
using testing::World;

// Two source ranks with a row half each of an F32 and a BF16 tensor; the target
// has BF16 columns [0,64) of one and all of the other, padded.
struct Small {
  World world;
  std::shared_ptr<const SourceIndex> index;
  Plan plan;
  const manifest::Placement& target() const {
    return world.targets[0].placement;
  }
};

Small MakeSmall() {
  Small small;
  World& world = small.world;
  world.sources = testing::EmptyMesh("fsdp:shard=2", 2);
  world.targets = testing::EmptyMesh("vllm:tp=1", 1);
  world.tensors = {{{"wide", tensor::DType::kF32, {64, 128}}, 1},
                   {{"tall", tensor::DType::kBF16, {128, 64}}, 1}};
  const auto f32 = tensor::DType::kF32;
  const auto bf16 = tensor::DType::kBF16;
  for (int64_t r = 0; r < 2; ++r) {
    testing::AddBox(world, world.sources[r], 0,
                    testing::ChunkBox(world, 0, 0, 2, r), f32, false, 0, false);
    testing::AddBox(world, world.sources[r], 1,
                    testing::ChunkBox(world, 1, 0, 2, r), bf16, false, 0,
                    false);
  }
  testing::AddBox(world, world.targets[0], 0, MakeBox({{0, 64}, {0, 60}}), bf16,
                  false, 0, true);
  testing::AddBox(world, world.targets[0], 1, testing::WholeBox(world, 1), bf16,
                  false, 4, true);
  small.world.distances = {0, 2};
  small.index = *SourceIndex::Make(testing::InfosOf(world));
  small.plan = *BuildPlan(*small.index, small.target(),
                          testing::DigestOfPlacement(small.target()), {});
  return small;
}

TEST(ExplainPlan, SaysEverythingForAPerson) {
  const Small small = MakeSmall();
  const std::string text = ExplainPlan(small.plan, *small.index, small.target(),
                                       {.link_bytes_per_second = 1e6});
  // 64*60 F32 and 128*64 BF16 elements; witnesses: columns 60..64.
  EXPECT_THAT(text, HasSubstr("plan for target rank 0: 2 source ranks, 4 moves,"
                              " 4 runs\n"));
  EXPECT_THAT(text, HasSubstr("from    \"fsdp:shard=2\", 2 of 2 ranks"));
  EXPECT_THAT(text, HasSubstr("to      \"vllm:tp=1\""));
  EXPECT_THAT(text, HasSubstr("reads   31.00 KiB and 1.00 KiB more"));
  EXPECT_THAT(text, HasSubstr("writes  23.50 KiB and 512 B of zeros"));
  EXPECT_THAT(text, HasSubstr("50.0 %"));
  EXPECT_THAT(text, HasSubstr("same host"));
  EXPECT_THAT(text, HasSubstr("distance 2"));
  EXPECT_THAT(text, HasSubstr("posted access: 0 B direct (runs of at least "
                              "64.00 KiB), 31.00 KiB staged (shorter runs)"));
  EXPECT_THAT(text, HasSubstr("F32 -> BF16  lossy: yes  1 tensors, 3840 "
                              "elements"));
  EXPECT_THAT(text, HasSubstr("zero fills\n"));
  EXPECT_THAT(text, HasSubstr("coverage: every one of 12288 elements written "
                              "exactly once (checked)\n"));
  EXPECT_THAT(text, HasSubstr("bound: 0.0328 s"));
  EXPECT_THAT(text, HasSubstr("expected: 0.0364 s"));
  EXPECT_LT(text.find("tall"), text.find("wide"));  // 16 KiB before 15 KiB
}

TEST(ExplainPlan, LeavesOutWhatIsNotKnown) {
  const Small small = MakeSmall();
  const std::string text =
      ExplainPlan(small.plan, *small.index, small.target(), {.max_tensors = 1});
  EXPECT_THAT(text, Not(HasSubstr("bound")));
  EXPECT_THAT(text, Not(HasSubstr("wide")));
  EXPECT_THAT(text, HasSubstr("and 1 more tensors\n"));
}

TEST(ExplainPlan, DoesNotPraiseASpoiledPlan) {
  Small small = MakeSmall();
  ++small.plan.peers[0].moves[0].runs[0].dst_offset;
  const std::string text =
      ExplainPlan(small.plan, *small.index, small.target(), {});
  EXPECT_THAT(text, HasSubstr("coverage: FAILED: "));
  EXPECT_THAT(text, Not(HasSubstr("exactly once (checked)")));
  const auto json = nlohmann::json::parse(
      ExplainPlanJson(small.plan, *small.index, small.target(), {}));
  EXPECT_FALSE(json["coverage"]["ok"]);
  EXPECT_TRUE(json["coverage"]["faults"].is_string());
}

TEST(ExplainPlan, ColumnsAreAligned) {
  const Small small = MakeSmall();
  const std::string text =
      ExplainPlan(small.plan, *small.index, small.target(), {});
  const size_t header = text.find("  rank ");
  ASSERT_NE(header, std::string::npos);
  const auto column = [&](size_t line, const std::string& word) {
    return text.find(word, line) - line;
  };
  const size_t first = text.find('\n', header) + 1;
  const size_t second = text.find('\n', first) + 1;
  EXPECT_EQ(column(header, "distance"), column(first, "same host"));
  EXPECT_EQ(column(header, "distance"), column(second, "distance 2"));
}

TEST(ExplainPlanJson, HasTheSameFacts) {
  const Small small = MakeSmall();
  const auto json = nlohmann::json::parse(
      ExplainPlanJson(small.plan, *small.index, small.target(),
                      {.link_bytes_per_second = 1e6, .max_tensors = 1}));
  EXPECT_EQ(json["format"], 1);
  EXPECT_EQ(json["target_rank"], 0);
  EXPECT_EQ(json["source"]["layout"], "fsdp:shard=2");
  EXPECT_EQ(json["source"]["digest"], small.plan.source_digest.ToHex());
  EXPECT_EQ(json["totals"]["src_bytes"], 64 * 60 * 4 + 128 * 64 * 2);
  EXPECT_EQ(json["totals"]["zero_fill_bytes"], 512);
  EXPECT_EQ(json["peers"].size(), 2u);
  EXPECT_EQ(json["peers"][1]["distance"], 2);
  EXPECT_EQ(json["num_tensors"], 2);
  EXPECT_EQ(json["tensors"].size(), 1u);
  EXPECT_EQ(json["tensors"][0]["name"], "tall");
  EXPECT_EQ(json["tensors"][0]["sources"], 2);
  EXPECT_EQ(json["conversions"][0]["lossy"], true);
  EXPECT_EQ(json["conversions"][0]["from"], "F32");
  EXPECT_EQ(json["zero_fills"][0]["bytes"], 512);
  EXPECT_EQ(json["coverage"]["elements"], 12288);
  EXPECT_DOUBLE_EQ(json["time"]["bound_seconds"], 0.032768);
  EXPECT_TRUE(nlohmann::json::parse(ExplainPlanJson(small.plan, *small.index,
                                                    small.target(), {}))["time"]
                  .is_null());
}

TEST(ExplainPlanJson, AddsUpOnRandomPlans) {
  ASSERT_TRUE(rc::check("sums", [] {
    Rng rng(*rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, 1u << 30)));
    const World world = testing::MakeRandomWorld(rng);
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    const manifest::Placement& target = world.targets[0].placement;
    const auto plan = BuildPlan(**index, target, {}, {});
    RC_ASSERT(plan.ok());
    const auto json = nlohmann::json::parse(
        ExplainPlanJson(*plan, **index, target, {.max_tensors = 0}));
    const int64_t total = plan->totals.src_bytes;
    const auto sum = [&](const char* list, const char* field) {
      int64_t value = 0;
      for (const auto& each : json[list]) value += each[field].get<int64_t>();
      return value;
    };
    for (const char* list : {"peers", "run_lengths", "tensors"}) {
      RC_ASSERT(sum(list, "src_bytes") == total);
      RC_ASSERT(sum(list, "runs") == plan->totals.runs);
    }
    RC_ASSERT(json["posted"]["direct_bytes"].get<int64_t>() +
                  json["posted"]["staged_bytes"].get<int64_t>() ==
              total);
    RC_ASSERT(sum("zero_fills", "bytes") == plan->totals.zero_fill_bytes);
    int64_t elements = 0;
    for (const auto& labels : world.targets[0].labels) {
      elements += static_cast<int64_t>(labels.size());
    }
    RC_ASSERT(json["coverage"]["elements"] == elements);
  }));
}

// Labels that were read by anybody, each counted once.
TEST(FleetMeter, CountsDistinctElements) {
  ASSERT_TRUE(rc::check("unique", [] {
    Rng rng(*rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, 1u << 30)));
    const World world = testing::MakeRandomWorld(rng);
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    std::vector<CompactPlan> plans;
    std::map<std::string, std::set<testing::Coords>> needed;
    std::map<std::string, int64_t> item_bytes;
    std::map<int64_t, int64_t> bytes;
    for (const testing::Rank& target : world.targets) {
      plans.push_back(*BuildCompactPlan(**index, target.placement, {}, {}));
      const Plan plan = *BuildPlan(**index, target.placement, {}, {});
      for (const PeerPlan& peer : plan.peers) {
        for (const Move& move : peer.moves) {
          const std::string& name = target.placement.tensors[move.tensor].name;
          const int64_t item =
              tensor::ItemBytes(world.sources[peer.src_rank]
                                    .placement.stored[move.src_stored]
                                    .dtype);
          auto [it, is_new] = item_bytes.try_emplace(name, item);
          it->second = std::min(it->second, item);
          testing::ForEach(move.box, [&](const testing::Coords& x) {
            needed[name].insert(x);
            bytes[peer.src_rank] += item;
          });
        }
      }
    }
    int64_t unique = 0;
    for (const auto& [name, elements] : needed) {
      unique += static_cast<int64_t>(elements.size()) * item_bytes[name];
    }
    FleetMeter meter(**index, nullptr);
    for (size_t i = 0; i < plans.size(); ++i) {
      meter.Add(plans[i], world.targets[i].placement);
    }
    const FleetLoad load = meter.Finish();
    RC_ASSERT(load.unique_bytes == unique);
    RC_ASSERT(load.sources.size() == world.sources.size());
    int64_t sent = 0, most = 0, holders = 0;
    for (size_t s = 0; s < world.sources.size(); ++s) {
      RC_ASSERT(load.sources[s].rank == static_cast<int64_t>(s));
      RC_ASSERT(load.sources[s].bytes == bytes[load.sources[s].rank]);
      sent += load.sources[s].bytes;
      most = std::max(most, load.sources[s].bytes);
      bool holds = false;
      for (const auto& labels : world.sources[s].labels) {
        for (const int64_t label : labels) holds = holds || label >= 0;
      }
      if (holds) ++holders;
    }
    RC_ASSERT(load.sent_bytes == sent);
    const double mean =
        static_cast<double>(sent) / static_cast<double>(holders);
    RC_ASSERT(std::abs(load.max_over_mean * mean - static_cast<double>(most)) <
              1e-6 * static_cast<double>(most));
    RC_ASSERT(load.least_max_over_mean >= 1);
    RC_ASSERT(load.least_max_over_mean <= load.max_over_mean * (1 + 1e-9));
  }));
}

// Ranks 0 and 1 alone hold "large", in halves and each half twice; "small" is
// on all four. Four receivers read 4 x 64 KiB of the one and 4 x 4 KiB of the
// other: the two cannot send less than 128 KiB each, of a mean of 68.
TEST(FleetMeter, SaysWhatNoChoiceOfReplicasGetsBelow) {
  World world;
  world.sources = testing::EmptyMesh("source", 4);
  world.targets = testing::EmptyMesh("target", 4);
  world.tensors.push_back({{"large", tensor::DType::kBF16, {256, 128}}, 1});
  world.tensors.push_back({{"small", tensor::DType::kBF16, {16, 128}}, 1});
  for (int64_t r = 0; r < 4; ++r) {
    if (r < 2) {
      for (int64_t half = 0; half < 2; ++half) {
        testing::AddBox(world, world.sources[r], 0,
                        testing::ChunkBox(world, 0, 0, 2, half),
                        tensor::DType::kBF16, false, 0, false);
      }
    }
    testing::AddBox(world, world.sources[r], 1, testing::WholeBox(world, 1),
                    tensor::DType::kBF16, false, 0, false);
    for (int32_t tensor = 0; tensor < 2; ++tensor) {
      testing::AddBox(world, world.targets[r], tensor,
                      testing::WholeBox(world, tensor), tensor::DType::kBF16,
                      false, 0, true);
    }
  }
  const auto index = SourceIndex::Make(testing::InfosOf(world));
  FleetMeter meter(**index, nullptr);
  for (const testing::Rank& target : world.targets) {
    meter.Add(*BuildCompactPlan(**index, target.placement, {}, {}),
              target.placement);
  }
  const FleetLoad load = meter.Finish();
  EXPECT_DOUBLE_EQ(load.least_max_over_mean, 128.0 / 68.0);
  EXPECT_DOUBLE_EQ(load.max_over_mean, 128.0 / 68.0);
}

TEST(FleetMeter, IsZeroWithoutPlans) {
  const Small small = MakeSmall();
  const FleetLoad load = FleetMeter(*small.index, nullptr).Finish();
  EXPECT_EQ(load.sources.size(), 2u);
  EXPECT_EQ(load.sent_bytes, 0);
  EXPECT_EQ(load.unique_bytes, 0);
  EXPECT_EQ(load.max_over_mean, 0);
}

}  // namespace
}  // namespace weft::plan
