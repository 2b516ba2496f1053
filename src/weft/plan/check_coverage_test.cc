// Every way of spoiling a good plan must be found, at the latest when the
// result would differ from the oracle's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <string>
#include <vector>

#include "weft/plan/plan.h"
#include "weft/plan/testing/plan_oracle.h"
#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;
using testing::Pick;
using testing::Rng;
using testing::World;

// A world with a plan for target 0 that has at least one move.
struct Case {
  World world;
  std::shared_ptr<const SourceIndex> index;
  Plan plan;
  const manifest::Placement& target() const {
    return world.targets[0].placement;
  }
  absl::Status Check() const { return CheckCoverage(plan, *index, target()); }
};

Case AnyCase(uint64_t seed) {
  Case c;
  Rng rng(seed);
  do {
    c.world = testing::MakeRandomWorld(rng);
    c.index = *SourceIndex::Make(testing::InfosOf(c.world));
    c.plan = *BuildPlan(*c.index, c.target(),
                        testing::DigestOfPlacement(c.target()), PlanLimits());
  } while (c.plan.peers.empty());
  return c;
}

Move& AnyMove(Plan& plan, Rng& rng) {
  PeerPlan& peer = plan.peers[Pick(rng, 0, plan.peers.size() - 1)];
  return peer.moves[Pick(rng, 0, peer.moves.size() - 1)];
}

void DropMove(Plan& plan, Rng& rng) {
  PeerPlan& peer = plan.peers[Pick(rng, 0, plan.peers.size() - 1)];
  peer.moves.erase(peer.moves.begin() + Pick(rng, 0, peer.moves.size() - 1));
}
void RepeatMove(Plan& plan, Rng& rng) {
  PeerPlan& peer = plan.peers[Pick(rng, 0, plan.peers.size() - 1)];
  peer.moves.push_back(Move(peer.moves[Pick(rng, 0, peer.moves.size() - 1)]));
}
void DropPeer(Plan& plan, Rng& rng) {
  plan.peers.erase(plan.peers.begin() + Pick(rng, 0, plan.peers.size() - 1));
}
void RepeatPeer(Plan& plan, Rng& rng) {
  plan.peers.push_back(
      PeerPlan(plan.peers[Pick(rng, 0, plan.peers.size() - 1)]));
}
void ShiftDestination(Plan& plan, Rng& rng) {
  AnyMove(plan, rng).runs[0].dst_offset += testing::OneIn(rng, 2) ? 1 : -1;
}
void ShiftSource(Plan& plan, Rng& rng) {
  AnyMove(plan, rng).runs.back().src_offset += testing::OneIn(rng, 2) ? 1 : -1;
}
void DropRun(Plan& plan, Rng& rng) { AnyMove(plan, rng).runs.pop_back(); }
void WidenExtent(Plan& plan, Rng& rng) {
  auto& modes = AnyMove(plan, rng).runs[0].modes;
  if (modes.empty()) {
    modes.push_back({2, 1, 1});
  } else {
    ++modes[Pick(rng, 0, modes.size() - 1)].extent;
  }
}
void ChangeStride(Plan& plan, Rng& rng) {
  auto& modes = AnyMove(plan, rng).runs[0].modes;
  if (modes.empty()) {
    modes.push_back({2, 1, 1});
  } else {
    ++modes[Pick(rng, 0, modes.size() - 1)].dst_stride;
  }
}
void RenameTensor(Plan& plan, Rng& rng) { ++AnyMove(plan, rng).tensor; }
void WrongFragment(Plan& plan, Rng& rng) { ++AnyMove(plan, rng).dst_fragment; }
void WrongStored(Plan& plan, Rng& rng) { --AnyMove(plan, rng).dst_stored; }
void WrongConversion(Plan& plan, Rng& rng) {
  AnyMove(plan, rng).conversion.from = tensor::DType::kF64;
}
void UnknownPeer(Plan& plan, Rng& rng) {
  plan.peers[Pick(rng, 0, plan.peers.size() - 1)].src_rank = 99;
}
void ExtraZeroFill(Plan& plan, Rng&) {
  plan.zero_fills.push_back({0, testing::MakeBox({{0, 1}})});
}
void WrongTarget(Plan& plan, Rng&) { ++plan.target_rank; }
void OtherSources(Plan& plan, Rng&) { ++plan.source_digest.bytes[3]; }

struct Mutation {
  std::string name;
  void (*apply)(Plan&, Rng&);
};

class SpoiledPlan : public ::testing::TestWithParam<Mutation> {};

TEST_P(SpoiledPlan, IsRefused) {
  ASSERT_TRUE(rc::check(GetParam().name, [] {
    const auto seed =
        *rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, uint64_t{1} << 48));
    Case c = AnyCase(seed);
    RC_ASSERT(c.Check().ok());
    Rng rng(seed + 1);
    GetParam().apply(c.plan, rng);
    RC_ASSERT(c.Check().code() == absl::StatusCode::kFailedPrecondition);
  }));
}

INSTANTIATE_TEST_SUITE_P(
    All, SpoiledPlan,
    ::testing::Values(
        Mutation{"DropMove", DropMove}, Mutation{"RepeatMove", RepeatMove},
        Mutation{"DropPeer", DropPeer}, Mutation{"RepeatPeer", RepeatPeer},
        Mutation{"ShiftDestination", ShiftDestination},
        Mutation{"ShiftSource", ShiftSource}, Mutation{"DropRun", DropRun},
        Mutation{"WidenExtent", WidenExtent},
        Mutation{"ChangeStride", ChangeStride},
        Mutation{"RenameTensor", RenameTensor},
        Mutation{"WrongFragment", WrongFragment},
        Mutation{"WrongStored", WrongStored},
        Mutation{"WrongConversion", WrongConversion},
        Mutation{"UnknownPeer", UnknownPeer},
        Mutation{"ExtraZeroFill", ExtraZeroFill},
        Mutation{"WrongTarget", WrongTarget},
        Mutation{"OtherSources", OtherSources}),
    [](const auto& instance) { return instance.param.name; });

// A box that is moved to its neighbour changes what would be digested: refused
// even though no run changed.
TEST(CheckCoverage, RefusesAWrongBox) {
  ASSERT_TRUE(rc::check("box", [] {
    const auto seed =
        *rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, uint64_t{1} << 48));
    Case c = AnyCase(seed);
    Rng rng(seed);
    Move& move = AnyMove(c.plan, rng);
    RC_PRE(move.box.rank() > 0);
    std::vector<tensor::Range> ranges(move.box.ranges().begin(),
                                      move.box.ranges().end());
    ++ranges[0].end;
    ++ranges[0].begin;
    move.box = testing::MakeBox(ranges);
    RC_ASSERT(!c.Check().ok());
  }));
}

TEST(CheckCoverage, RefusesASpoiledWitness) {
  int tried = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Case c = AnyCase(seed);
    for (PeerPlan& peer : c.plan.peers) {
      if (peer.witnesses.empty()) continue;
      ++tried;
      const Witness good = peer.witnesses[0];
      const auto refuses = [&](auto spoil) {
        spoil(peer.witnesses[0]);
        EXPECT_FALSE(c.Check().ok()) << "seed " << seed;
        peer.witnesses[0] = good;
      };
      refuses([](Witness& w) { ++w.runs[0].src_offset; });
      refuses([](Witness& w) { ++w.runs[0].dst_offset; });
      refuses([](Witness& w) { w.runs.clear(); });
      refuses([](Witness& w) { w.scratch_offset_bytes += 32; });
      refuses([](Witness& w) { w.scratch_offset_bytes = -64; });
      refuses([&](Witness& w) {
        w.scratch_offset_bytes = c.plan.totals.scratch_bytes / 64 * 64 + 64;
      });
      refuses([](Witness& w) { w.move = 1 << 20; });
      EXPECT_TRUE(c.Check().ok()) << c.Check();
    }
  }
  EXPECT_GT(tried, 20);
}

TEST(CheckCoverage, ReportsAllFaultsAtOnce) {
  Case c;
  for (uint64_t seed = 0;; ++seed) {
    c = AnyCase(seed);
    if (c.plan.totals.moves >= 3 && c.plan.peers[0].moves.size() >= 3) break;
  }
  PeerPlan& peer = c.plan.peers[0];
  ++peer.moves[0].runs[0].dst_offset;
  peer.moves.push_back(Move(peer.moves[1]));
  peer.moves.erase(peer.moves.begin() + 2);
  c.plan.zero_fills.push_back({0, testing::MakeBox({{0, 1}})});
  const std::string message(c.Check().message());
  EXPECT_THAT(message, HasSubstr("run 0 is {"));
  EXPECT_THAT(message, HasSubstr("is written twice"));
  EXPECT_THAT(message, HasSubstr("nothing writes"));
  EXPECT_THAT(message, HasSubstr("not declared"));
}

}  // namespace
}  // namespace weft::plan
