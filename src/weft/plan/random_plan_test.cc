// Random meshes against the element-by-element oracle.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <map>
#include <set>

#include "weft/plan/plan.h"
#include "weft/plan/testing/plan_oracle.h"
#include "weft/plan/testing/random_world.h"
#include "weft/tensor/tile_grid.h"

namespace weft::plan {
namespace {

using testing::Rng;
using testing::World;

World AnyWorld() {
  const auto seed =
      *rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, uint64_t{1} << 48));
  RC_LOG("world seed " + std::to_string(seed));
  Rng rng(seed);
  return testing::MakeRandomWorld(rng);
}

absl::StatusOr<Plan> PlanFor(const World& world, const SourceIndex& index,
                             size_t target) {
  const manifest::Placement& placement = world.targets[target].placement;
  return BuildPlan(index, placement, testing::DigestOfPlacement(placement),
                   PlanLimits());
}

TEST(RandomPlan, MakesWhatTheTargetDeclares) {
  ASSERT_TRUE(rc::check("plan == oracle", [] {
    const World world = AnyWorld();
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    if (!index.ok()) RC_FAIL(index.status().ToString());
    for (size_t t = 0; t < world.targets.size(); ++t) {
      const absl::Status good = manifest::CheckPlacement(
          world.targets[t].placement, /*is_target=*/true);
      if (!good.ok()) RC_FAIL(good.ToString());
      const auto plan = PlanFor(world, **index, t);
      if (!plan.ok()) RC_FAIL(plan.status().ToString());
      RC_ASSERT(testing::CompareWithOracle(*plan, world, world.targets[t]) ==
                "");
      RC_ASSERT(CheckCoverage(*plan, **index, world.targets[t].placement).ok());
    }
  }));
}

TEST(RandomPlan, IsTheSameWhateverTheOrderOfTheSources) {
  ASSERT_TRUE(rc::check("plan(order) == plan", [] {
    const World world = AnyWorld();
    std::vector<SourceInfo> infos = testing::InfosOf(world);
    const auto forward = SourceIndex::Make(infos);
    std::reverse(infos.begin(), infos.end());
    const auto backward = SourceIndex::Make(infos);
    if (infos.size() > 2) std::swap(infos[0], infos[1]);
    const auto mixed = SourceIndex::Make(infos);
    for (size_t t = 0; t < world.targets.size(); ++t) {
      const auto plan = PlanFor(world, **forward, t);
      RC_ASSERT(plan.ok());
      RC_ASSERT(*plan == *PlanFor(world, **forward, t));
      RC_ASSERT(*plan == *PlanFor(world, **backward, t));
      RC_ASSERT(*plan == *PlanFor(world, **mixed, t));
    }
  }));
}

// Totals, orders and conversions, counted again from the moves.
TEST(RandomPlan, CountsWhatItHolds) {
  ASSERT_TRUE(rc::check("totals", [] {
    const World world = AnyWorld();
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    for (size_t t = 0; t < world.targets.size(); ++t) {
      const manifest::Placement& target = world.targets[t].placement;
      const auto plan = PlanFor(world, **index, t);
      RC_ASSERT(plan.ok());
      PlanTotals totals;
      int64_t staged = 0;
      std::map<std::pair<int, int>, std::set<int>> tensors_of_conversion;
      int64_t last_rank = -1;
      for (const PeerPlan& peer : plan->peers) {
        RC_ASSERT(peer.src_rank > last_rank);
        last_rank = peer.src_rank;
        RC_ASSERT(!peer.moves.empty());
        int64_t src_bytes = 0, dst_bytes = 0, witness_bytes = 0;
        for (const Move& move : peer.moves) {
          ++totals.moves;
          const manifest::Placement& source =
              world.sources[peer.src_rank].placement;
          const int64_t from =
              tensor::ItemBytes(source.stored[move.src_stored].dtype);
          const int64_t to =
              tensor::ItemBytes(target.stored[move.dst_stored].dtype);
          for (const layout::Run& run : move.runs) {
            ++totals.runs;
            src_bytes += run.num_elements() * from;
            dst_bytes += run.num_elements() * to;
            const int64_t length = run.contiguous_elements() * from;
            totals.shortest_run_bytes =
                totals.runs == 1 ? length
                                 : std::min(totals.shortest_run_bytes, length);
            totals.longest_run_bytes =
                std::max(totals.longest_run_bytes, length);
            if (length < 65536) staged += run.num_elements() * from;
          }
          if (!move.conversion.identity()) {
            tensors_of_conversion[{static_cast<int>(move.conversion.from),
                                   static_cast<int>(move.conversion.to)}]
                .insert(move.tensor);
          }
        }
        for (const Witness& witness : peer.witnesses) {
          witness_bytes +=
              witness.box.num_elements() *
              tensor::ItemBytes(peer.moves[witness.move].conversion.from);
        }
        RC_ASSERT(peer.src_bytes == src_bytes);
        RC_ASSERT(peer.dst_bytes == dst_bytes);
        RC_ASSERT(peer.witness_bytes == witness_bytes);
        totals.src_bytes += src_bytes;
        totals.dst_bytes += dst_bytes;
        totals.witness_bytes += witness_bytes;
        const auto key = [](const Move& move) {
          std::vector<int64_t> k = {move.dst_stored, move.dst_fragment};
          for (const tensor::Range& range : move.box.ranges()) {
            k.push_back(range.begin);
            k.push_back(range.end);
          }
          return k;
        };
        RC_ASSERT(std::is_sorted(
            peer.moves.begin(), peer.moves.end(),
            [&](const Move& a, const Move& b) { return key(a) < key(b); }));
      }
      totals.zero_fill_bytes = plan->totals.zero_fill_bytes;
      totals.scratch_bytes = plan->totals.scratch_bytes;
      totals.peak_staging_bytes = std::min(staged, int64_t{64} << 20);
      RC_ASSERT(plan->totals == totals);
      RC_ASSERT(plan->conversions.size() == tensors_of_conversion.size());
      for (const ConversionUse& use : plan->conversions) {
        const auto& tensors =
            tensors_of_conversion[{static_cast<int>(use.conversion.from),
                                   static_cast<int>(use.conversion.to)}];
        RC_ASSERT(use.num_tensors == static_cast<int64_t>(tensors.size()));
        RC_ASSERT(use.lossy == (use.conversion.to != tensor::DType::kF32));
      }
    }
  }));
}

// The elements of the tiles that a move meets, within the source fragment, are
// the move's and its witnesses', each once; and the scratch has their values.
TEST(RandomPlan, WitnessesCompleteTheTiles) {
  ASSERT_TRUE(rc::check("move + witnesses == tiles", [] {
    const World world = AnyWorld();
    const auto index = SourceIndex::Make(testing::InfosOf(world));
    for (size_t t = 0; t < world.targets.size(); ++t) {
      const auto plan = PlanFor(world, **index, t);
      RC_ASSERT(plan.ok());
      std::vector<int> scratch_writes(plan->totals.scratch_bytes, 0);
      for (const PeerPlan& peer : plan->peers) {
        const testing::Rank& source = world.sources[peer.src_rank];
        for (size_t m = 0; m < peer.moves.size(); ++m) {
          const Move& move = peer.moves[m];
          const layout::Fragment& fragment =
              source.placement.stored[move.src_stored]
                  .fragments[move.src_fragment];
          const int rank = move.box.rank();
          const tensor::Shape tile = tensor::TileShape(rank);
          std::set<testing::Coords> met;
          const auto tile_of = [&](const testing::Coords& x) {
            testing::Coords at = x;
            for (int dim = 0; dim < rank; ++dim) at[dim] /= tile[dim];
            return at;
          };
          testing::ForEach(move.box, [&](const testing::Coords& x) {
            met.insert(tile_of(x));
          });
          std::map<testing::Coords, int> wanted;
          testing::ForEach(fragment.map.box(), [&](const testing::Coords& x) {
            if (met.count(tile_of(x)) > 0) wanted[x] = 1;
          });
          testing::ForEach(move.box,
                           [&](const testing::Coords& x) { --wanted[x]; });
          for (const Witness& witness : peer.witnesses) {
            if (witness.move != static_cast<int32_t>(m)) continue;
            RC_ASSERT(witness.scratch_offset_bytes % 64 == 0);
            const int64_t item = tensor::ItemBytes(move.conversion.from);
            std::vector<int64_t> expected;
            const auto& labels = source.labels[move.src_stored];
            testing::ForEach(witness.box, [&](const testing::Coords& x) {
              --wanted[x];
              expected.push_back(labels[fragment.map.OffsetOf(x)]);
            });
            std::vector<int64_t> got(expected.size(), testing::kUnwritten);
            for (const layout::Run& run : witness.runs) {
              testing::ForEachPair(run, [&](int64_t src, int64_t dst) {
                got.at(dst) = labels.at(src);
                for (int64_t i = 0; i < item; ++i) {
                  ++scratch_writes.at(witness.scratch_offset_bytes +
                                      dst * item + i);
                }
              });
            }
            RC_ASSERT(got == expected);
          }
          for (const auto& [x, missing] : wanted) RC_ASSERT(missing == 0);
        }
      }
      for (const int writes : scratch_writes) RC_ASSERT(writes <= 1);
    }
  }));
}

}  // namespace
}  // namespace weft::plan
