// Plans as bytes: what is written is read back, and nothing else is.
#include "weft/plan/plan_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <string>

#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;
using testing::MakeBox;
using testing::Rng;
using testing::World;

// A plan with all that a plan can have.
CompactPlan Full() {
  CompactPlan plan;
  plan.source_digest = manifest::DigestOf("source");
  plan.target_digest = manifest::DigestOf("target");
  plan.target_rank = 3;
  MoveSeries one;
  one.box = MakeBox({{0, 4}, {0, 8}});
  one.conversion = {tensor::DType::kF32, tensor::DType::kBF16,
                    tensor::Transform::kPlusOne};
  MoveSeries many;
  many.tensor = 1;
  many.src_stored = 2;
  many.src_fragment = 3;
  many.dst_stored = 4;
  many.dst_fragment = 5;
  many.box = MakeBox({{1, 10}});
  many.src_rank = 7;
  many.num_moves = 4;
  many.rank_step = 2;
  many.head = 2;
  many.chunk = 3;
  plan.series = {one, many};
  plan.peers = {{7, 2, 100, 50, 0}, {9, 1, 6, 6, 64}};
  plan.zero_fills = {{4, MakeBox({{10, 12}})}};
  plan.conversions = {{one.conversion, true, 1, 32}};
  plan.totals = {5, 6, 106, 56, 64, 4, 128, 2, 64, 100};
  return plan;
}

TEST(PlanCodec, ReadsWhatItWrote) {
  const CompactPlan plan = Full();
  const auto again = DecodePlan(EncodePlan(plan));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, plan);
  EXPECT_EQ(*DecodePlan(EncodePlan(CompactPlan())), CompactPlan());
}

TEST(PlanCodec, ReadsRandomPlans) {
  ASSERT_TRUE(rc::check("decode(encode) == plan", [] {
    const auto seed =
        *rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, uint64_t{1} << 48));
    RC_LOG("world seed " + std::to_string(seed));
    Rng rng(seed);
    const World world = testing::MakeRandomWorld(rng);
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    RC_ASSERT(index.ok());
    for (const testing::Rank& target : world.targets) {
      const auto plan =
          BuildCompactPlan(**index, target.placement,
                           testing::DigestOfPlacement(target.placement), {});
      RC_ASSERT(plan.ok());
      const auto again = DecodePlan(EncodePlan(*plan));
      RC_ASSERT(again.ok());
      RC_ASSERT(*again == *plan);
      RC_ASSERT(CheckCompactPlan(*again, **index, target.placement, {}).ok());
    }
  }));
}

TEST(PlanCodec, RefusesEveryTruncation) {
  const std::string bytes = EncodePlan(Full());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(DecodePlan(bytes.substr(0, size)).status().code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_EQ(DecodePlan(bytes + '\0').status().code(),
            absl::StatusCode::kDataLoss);
}

// One plan, one encoding: what another byte says is refused or another plan.
TEST(PlanCodec, IsCanonicalUnderEveryFlippedBit) {
  const CompactPlan plan = Full();
  const std::string bytes = EncodePlan(plan);
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      const auto read = DecodePlan(flipped);
      if (!read.ok()) continue;
      EXPECT_FALSE(*read == plan) << "byte " << at << " bit " << bit;
      EXPECT_EQ(EncodePlan(*read), flipped) << "byte " << at << " bit " << bit;
    }
  }
}

TEST(PlanCodec, RefusesAnotherVersionByName) {
  std::string bytes = EncodePlan(Full());
  bytes[4] = 9;
  const absl::Status status = DecodePlan(bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 9"));
}

TEST(PlanCodec, RefusesSeriesThatAreNone) {
  struct Case {
    const char* what;
    void (*spoil)(MoveSeries&);
  };
  const Case cases[] = {
      {"no moves", [](MoveSeries& s) { s.num_moves = 0; }},
      {"a move too many", [](MoveSeries& s) { s.num_moves = 5; }},
      {"moves without end",
       [](MoveSeries& s) { s.num_moves = int64_t{1} << 62; }},
      {"an empty box",
       [](MoveSeries& s) {
         s.box = MakeBox({{4, 4}});
       }},
      {"no step", [](MoveSeries& s) { s.rank_step = 0; }},
      {"a dimension too high", [](MoveSeries& s) { s.dim = 1; }},
      {"a head beyond the chunk", [](MoveSeries& s) { s.head = 4; }},
      {"a chunk beyond 64 bits",
       [](MoveSeries& s) {
         s.num_moves = 2;
         s.chunk = INT64_MAX;
       }},
  };
  for (const Case& each : cases) {
    CompactPlan plan = Full();
    each.spoil(plan.series[1]);
    EXPECT_EQ(DecodePlan(EncodePlan(plan)).status().code(),
              absl::StatusCode::kDataLoss)
        << each.what;
  }
}

TEST(PlanCodec, BoundsTheMovesOfAll) {
  CompactPlan plan;
  MoveSeries series;
  series.num_moves = kMaxPlanFileMoves;
  series.box = MakeBox({{0, kMaxPlanFileMoves}});
  series.rank_step = series.head = series.chunk = 1;
  plan.series = {series};
  EXPECT_TRUE(DecodePlan(EncodePlan(plan)).ok());
  plan.series = {series, series};
  const absl::Status status = DecodePlan(EncodePlan(plan)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("more than 67108864"));
}

}  // namespace
}  // namespace weft::plan
