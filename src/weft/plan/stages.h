// Stages: how a target gets matrices in FP8 that its sources hold otherwise.
//
// The blocks of such a matrix that no source holds quantised come over as they
// are, whole blocks at a time, into *stage* tensors: row-major pieces in
// staging memory, in the matrix's own dtype. There they are verified like
// anything else, and then quantised into the target's stored tensors. What
// fits the staging budget together is a *round*; rounds use the same memory
// one after another (docs/decisions/0010-block-fp8.md).
#ifndef WEFT_PLAN_STAGES_H_
#define WEFT_PLAN_STAGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/manifest/placement.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/plan.h"
#include "weft/tensor/box.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::plan {

// One stage tensor to the parts of the target that are made of it.
struct QuantiseStep {
  int32_t tensor = 0;  // the matrix, into the target's tensors
  tensor::ScaleScheme scheme;
  tensor::Box blocks;  // of the scales
  tensor::Box box;     // the elements of those blocks
  int32_t stage = 0;   // stored tensor of StagedTarget::placement, holds `box`
  // In the staging memory of its round, a multiple of kScratchAlignBytes.
  int64_t stage_offset_bytes = 0;
  // Fragments of the target that hold some of `box`, or of `blocks`.
  struct Output {
    int32_t stored = 0;
    int32_t fragment = 0;
    friend bool operator==(const Output&, const Output&) = default;
  };
  std::vector<Output> elements;
  std::vector<Output> scales;
  friend bool operator==(const QuantiseStep&, const QuantiseStep&) = default;
};

struct StageRound {
  size_t first_step = 0;
  size_t num_steps = 0;
  int64_t bytes = 0;  // of staging
};

struct StagedTarget {
  // The target without the parts that steps make, and after its stored tensors
  // the stages. Stored tensors keep their index. A target without `scaled` is
  // itself.
  manifest::Placement placement;
  size_t num_target_stored = 0;
  std::vector<QuantiseStep> steps;  // one a stage, in the order of the stages
  std::vector<StageRound> rounds;
  int64_t staging_bytes = 0;  // of the largest round
};

// Decides what is staged. Pure. `target` must have passed
// manifest::CheckPlacement. Stages get half of the staging memory, posted
// access the rest: kResourceExhausted if one block needs more.
absl::StatusOr<StagedTarget> StageTarget(const SourceIndex& sources,
                                         const manifest::Placement& target,
                                         const PlanLimits& limits);

// BuildPlan for a staged target, whose conversions list what the steps do after
// the moves. `placement`, `steps`: of the StagedTarget.
absl::StatusOr<Plan> BuildStagedPlan(const SourceIndex& sources,
                                     const manifest::Placement& placement,
                                     const std::vector<QuantiseStep>& steps,
                                     const manifest::LayoutDigest& digest,
                                     const PlanLimits& limits);

// BuildCompactPlan likewise.
absl::StatusOr<CompactPlan> BuildStagedCompactPlan(
    const SourceIndex& sources, const manifest::Placement& placement,
    const std::vector<QuantiseStep>& steps,
    const manifest::LayoutDigest& digest, const PlanLimits& limits);

// Independent proof: what remains in the staged target and what the steps
// write tile each stored tensor of `target`, and each step stays within its
// stage. kFailedPrecondition with all faults. StageTarget has run it.
absl::Status CheckStages(const StagedTarget& staged,
                         const manifest::Placement& target);

// The parts of `plan` (for StagedTarget::placement): first what needs no step,
// with the zero fills, then for each round what its steps need.
std::vector<Plan> PlansOfRounds(const Plan& plan, const StagedTarget& staged);

}  // namespace weft::plan

#endif  // WEFT_PLAN_STAGES_H_
