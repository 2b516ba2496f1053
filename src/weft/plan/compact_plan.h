// CompactPlan: a plan that keeps series of moves and not each of them.
//
// FSDP over 256 ranks cuts each tensor into 256 shards, and a receiver that
// holds it whole has 256 moves, of which two differ from the others by more
// than the source rank and an offset. The compact plan has one MoveSeries. All
// that is asked of a fleet (coverage, totals, load per source) is computed on
// the series; single moves and their runs are made when a plan is bound to
// memory or explained (ExpandPlan).
#ifndef WEFT_PLAN_COMPACT_PLAN_H_
#define WEFT_PLAN_COMPACT_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/manifest/placement.h"
#include "weft/plan/plan.h"
#include "weft/tensor/box.h"
#include "weft/tensor/conversion.h"

namespace weft::plan {

// One move, or several from ranks src_rank, src_rank + rank_step, ... whose
// boxes follow each other along `dim`.
struct MoveSeries {
  int32_t tensor = 0;  // index into target.tensors
  int32_t src_stored = 0;
  int32_t src_fragment = 0;
  int32_t dst_stored = 0;
  int32_t dst_fragment = 0;
  tensor::Conversion conversion;
  tensor::Box box;  // of all moves together, logical coordinates
  int64_t src_rank = 0;
  int64_t num_moves = 1;
  // Of two moves or more; 0 for a single one.
  int64_t rank_step = 0;
  int32_t dim = 0;
  int64_t head = 0;   // extent of the first move along `dim`
  int64_t chunk = 0;  // of those that follow, but the last has the rest

  int64_t RankOf(int64_t move) const { return src_rank + move * rank_step; }
  tensor::Box BoxOf(int64_t move) const;
  // Elements of that move.
  int64_t ElementsOf(int64_t move) const;
  friend bool operator==(const MoveSeries&, const MoveSeries&) = default;
};

// What one source rank sends.
struct PeerTraffic {
  int64_t src_rank = 0;
  int64_t moves = 0;
  int64_t src_bytes = 0;  // as in PeerPlan
  int64_t dst_bytes = 0;
  int64_t witness_bytes = 0;
  friend bool operator==(const PeerTraffic&, const PeerTraffic&) = default;
};

// Everything but the series is as in the Plan that it expands to.
struct CompactPlan {
  manifest::LayoutDigest source_digest;
  manifest::LayoutDigest target_digest;
  int64_t target_rank = 0;
  std::vector<MoveSeries> series;  // by (dst_stored, dst_fragment, box)
  std::vector<PeerTraffic> peers;  // by ascending src_rank
  std::vector<ZeroFill> zero_fills;
  std::vector<ConversionUse> conversions;
  PlanTotals totals;
  friend bool operator==(const CompactPlan&, const CompactPlan&) = default;
};

// As BuildPlan, which is this and ExpandPlan. Proven by CheckCompactPlan.
absl::StatusOr<CompactPlan> BuildCompactPlan(
    const SourceIndex& sources, const manifest::Placement& target,
    const manifest::LayoutDigest& target_digest, const PlanLimits& limits);

// Proof on the series, whoever made them: the source fragments that a series
// names exist and hold what it takes of each; the series fill each fragment of
// the target, every element once; the runs of each kind of move are exactly the
// elements of its box (run_proof.h); the zero fills are those that the target
// declares; totals, peers and conversions are those of the series. All faults
// at once, kFailedPrecondition.
absl::Status CheckCompactPlan(const CompactPlan& plan,
                              const SourceIndex& sources,
                              const manifest::Placement& target,
                              const PlanLimits& limits);

// The moves and runs of a plan for these sources and this target, which
// CheckCompactPlan must accept.
absl::StatusOr<Plan> ExpandPlan(const CompactPlan& plan,
                                const SourceIndex& sources,
                                const manifest::Placement& target,
                                const PlanLimits& limits);

// The moves of some series of such a plan, in its order; bytes and the places
// of witnesses in scratch are not counted.
absl::StatusOr<std::vector<PeerPlan>> ExpandSeries(
    absl::Span<const MoveSeries> series, const SourceIndex& sources,
    const manifest::Placement& target, const PlanLimits& limits);

}  // namespace weft::plan

#endif  // WEFT_PLAN_COMPACT_PLAN_H_
