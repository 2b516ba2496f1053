#include "weft/plan/stages.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/plan/box_set.h"
#include "weft/plan/count_plan.h"
#include "weft/plan/source_table.h"
#include "weft/tensor/dtype.h"

namespace weft::plan {
namespace {

using layout::ScaledTensor;
using tensor::Box;
using tensor::Range;

// Large enough that a step is worth a thread's while, small enough for caches
// and for many steps in a round.
constexpr int64_t kStageBytes = int64_t{4} << 20;

class Stager {
 public:
  Stager(const SourceTable& sources, const manifest::Placement& target,
         int64_t staging_bytes)
      : sources_(sources), target_(target), staging_bytes_(staging_bytes) {}

  absl::StatusOr<StagedTarget> Run();

 private:
  using Output = QuantiseStep::Output;
  struct Uses {  // of a matrix: fragments of the target
    std::vector<Output> elements;
    std::vector<Output> scales;
  };

  void ListOutputs();
  Uses UsesOf(const ScaledTensor& scaled) const;
  absl::Status StageMatrix(const ScaledTensor& scaled, const Uses& uses);
  // Boxes of blocks that some source holds quantised by the same scheme,
  // scales and all; they may overlap.
  std::vector<Box> HeldBlocks(const ScaledTensor& scaled) const;
  // Disjoint boxes of all blocks that the target needs and nobody holds.
  std::vector<Box> MissingBlocks(const ScaledTensor& scaled, const Uses& uses,
                                 const std::vector<Box>& held) const;
  absl::Status AddSteps(const ScaledTensor& scaled, const Uses& uses,
                        const Box& blocks);
  absl::Status AddStep(const ScaledTensor& scaled, const Uses& uses,
                       const Box& blocks);
  void KeepDirect(const std::vector<Output>& outputs,
                  const std::vector<Box>& staged);

  const layout::Fragment& FragmentOf(const Output& output) const {
    return target_.stored[output.stored].fragments[output.fragment];
  }

  const SourceTable& sources_;
  const manifest::Placement& target_;
  const int64_t staging_bytes_;
  std::vector<std::vector<Output>> outputs_;  // of each tensor
  StagedTarget result_;
};

absl::StatusOr<StagedTarget> Stager::Run() {
  result_.placement = target_;
  result_.num_target_stored = target_.stored.size();
  if (target_.scaled.empty()) return std::move(result_);
  ListOutputs();
  for (const ScaledTensor& scaled : target_.scaled) {
    WEFT_RETURN_IF_ERROR(StageMatrix(scaled, UsesOf(scaled)));
  }
  const absl::Status proven = CheckStages(result_, target_);
  if (!proven.ok()) {
    return absl::InternalError(
        absl::StrCat("the stages of target rank ", target_.rank,
                     " failed their own check: ", proven.message()));
  }
  return std::move(result_);
}

void Stager::ListOutputs() {
  outputs_.resize(target_.tensors.size());
  for (size_t s = 0; s < target_.stored.size(); ++s) {
    const layout::StoredTensor& stored = target_.stored[s];
    for (size_t f = 0; f < stored.fragments.size(); ++f) {
      if (stored.fragments[f].map.box().empty()) continue;
      outputs_[stored.fragments[f].tensor].push_back(
          {static_cast<int32_t>(s), static_cast<int32_t>(f)});
    }
  }
}

// A target may keep a matrix as it is although it has a scheme.
Stager::Uses Stager::UsesOf(const ScaledTensor& scaled) const {
  Uses uses;
  for (const Output& output : outputs_[scaled.tensor]) {
    if (target_.stored[output.stored].dtype == tensor::DType::kF8E4M3) {
      uses.elements.push_back(output);
    }
  }
  uses.scales = outputs_[scaled.scales];
  return uses;
}

absl::Status Stager::StageMatrix(const ScaledTensor& scaled, const Uses& uses) {
  const tensor::TensorSpec& matrix = target_.tensors[scaled.tensor];
  const TensorEntry* const entry = sources_.Find(matrix.name);
  // BuildPlan says what is wrong with either.
  if (entry == nullptr || entry->spec->shape != matrix.shape) {
    return absl::OkStatus();
  }
  const std::vector<Box> held = HeldBlocks(scaled);
  const std::vector<Box> missing = MissingBlocks(scaled, uses, held);
  if (missing.empty()) return absl::OkStatus();
  std::vector<Box> boxes;
  for (const Box& blocks : missing) {
    boxes.push_back(tensor::ElementsOf(scaled.scheme, matrix.shape, blocks));
    WEFT_RETURN_IF_ERROR(AddSteps(scaled, uses, blocks));
  }
  KeepDirect(uses.elements, boxes);
  KeepDirect(uses.scales, missing);
  return absl::OkStatus();
}

std::vector<Box> Stager::HeldBlocks(const ScaledTensor& scaled) const {
  const tensor::TensorSpec& matrix = target_.tensors[scaled.tensor];
  const TensorEntry& entry = *sources_.Find(matrix.name);
  const TensorEntry* const scales =
      sources_.Find(target_.tensors[scaled.scales].name);
  if (scales == nullptr) return {};
  // A checkpoint that is in FP8 has no rule: its scales are taken as they are,
  // but not for powers of two, which they need not be.
  const bool is_native = entry.spec->dtype == tensor::DType::kF8E4M3 &&
                         scaled.scheme.rule != tensor::ScaleRule::kPowerOfTwo;
  if (!is_native &&
      !(entry.scheme.has_value() && *entry.scheme == scaled.scheme)) {
    return {};
  }
  std::vector<Box> held;
  for (const BoxGroup& group : sources_.GroupsOf(entry)) {
    const auto candidates = sources_.CandidatesOf(group);
    const bool quantised = std::any_of(
        candidates.begin(), candidates.end(), [](const Candidate& each) {
          return each.dtype == tensor::DType::kF8E4M3;
        });
    if (!quantised) continue;
    // A block that two members share is whole in neither.
    for (int64_t member = 0; member < group.members; ++member) {
      const Box blocks =
          tensor::WholeBlocksIn(scaled.scheme, matrix.shape,
                                SourceTable::MemberBox(entry, group, member));
      for (const BoxGroup& known : sources_.GroupsOf(*scales)) {
        if (known.box.rank() != 2 || !Overlaps(known.box, blocks)) continue;
        held.push_back(tensor::Intersect(known.box, blocks));
      }
    }
  }
  return held;
}

std::vector<Box> Stager::MissingBlocks(const ScaledTensor& scaled,
                                       const Uses& uses,
                                       const std::vector<Box>& held) const {
  const tensor::Shape& shape = target_.tensors[scaled.tensor].shape;
  std::vector<Box> missing;
  const auto add = [&](const Box& needed) {
    std::vector<const Box*> known;
    for (const Box& box : held) known.push_back(&box);
    for (const Box& box : missing) known.push_back(&box);
    for (Box& box : SubtractAll(needed, known)) {
      missing.push_back(std::move(box));
    }
  };
  for (const Output& output : uses.elements) {
    add(tensor::BlocksOf(scaled.scheme, shape, FragmentOf(output).map.box()));
  }
  for (const Output& output : uses.scales) add(FragmentOf(output).map.box());
  return missing;
}

// Cuts `blocks` into stages: bands of rows of blocks, and those into columns
// where one row of blocks is too much.
absl::Status Stager::AddSteps(const ScaledTensor& scaled, const Uses& uses,
                              const Box& blocks) {
  const tensor::TensorSpec& matrix = target_.tensors[scaled.tensor];
  const tensor::Shape block = tensor::BlockShape(scaled.scheme, matrix.shape);
  const int64_t item_bytes = tensor::ItemBytes(matrix.dtype);
  // All of a matrix's elements are countable, so none of these overflows.
  const int64_t block_bytes = std::min(block[0], matrix.shape[0]) *
                              std::min(block[1], matrix.shape[1]) * item_bytes;
  if (block_bytes > staging_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a block (", tensor::ToString(scaled.scheme), ") of \"", matrix.name,
        "\" needs ", block_bytes, " bytes of staging for the part of ",
        staging_bytes_, " bytes that quantising gets; allow more staging"));
  }
  const int64_t most =
      std::max<int64_t>(1, std::min(kStageBytes, staging_bytes_) / block_bytes);
  const int64_t columns = std::min(blocks.extent(1), most);
  const int64_t rows = std::max<int64_t>(1, most / columns);
  for (int64_t r = blocks.range(0).begin; r < blocks.range(0).end; r += rows) {
    for (int64_t c = blocks.range(1).begin; c < blocks.range(1).end;
         c += columns) {
      const Range part[] = {{r, std::min(r + rows, blocks.range(0).end)},
                            {c, std::min(c + columns, blocks.range(1).end)}};
      WEFT_RETURN_IF_ERROR(AddStep(scaled, uses, *Box::Make(part)));
    }
  }
  return absl::OkStatus();
}

absl::Status Stager::AddStep(const ScaledTensor& scaled, const Uses& uses,
                             const Box& blocks) {
  const tensor::TensorSpec& matrix = target_.tensors[scaled.tensor];
  QuantiseStep step;
  step.tensor = scaled.tensor;
  step.scheme = scaled.scheme;
  step.blocks = blocks;
  step.box = tensor::ElementsOf(scaled.scheme, matrix.shape, blocks);
  for (const Output& output : uses.elements) {
    if (Overlaps(FragmentOf(output).map.box(), step.box)) {
      step.elements.push_back(output);
    }
  }
  for (const Output& output : uses.scales) {
    if (Overlaps(FragmentOf(output).map.box(), step.blocks)) {
      step.scales.push_back(output);
    }
  }
  layout::StoredTensor stage;
  stage.name = absl::StrCat(matrix.name, " ", step.box.ToString());
  stage.dtype = matrix.dtype;
  stage.shape = step.box.shape();
  const tensor::Shape origin(2, 0);
  WEFT_ASSIGN_OR_RETURN(
      layout::IndexMap map,
      layout::IndexMap::RowMajor(step.box, stage.shape, origin));
  stage.fragments.push_back({scaled.tensor, std::move(map)});
  step.stage = static_cast<int32_t>(result_.placement.stored.size());
  const int64_t bytes =
      step.box.num_elements() * tensor::ItemBytes(matrix.dtype);
  auto& rounds = result_.rounds;
  if (rounds.empty() ||
      base::AlignUp(rounds.back().bytes, kScratchAlignBytes) + bytes >
          staging_bytes_) {
    rounds.push_back({result_.steps.size(), 0, 0});
  }
  StageRound& round = rounds.back();
  step.stage_offset_bytes = base::AlignUp(round.bytes, kScratchAlignBytes);
  round.bytes = step.stage_offset_bytes + bytes;
  ++round.num_steps;
  result_.staging_bytes = std::max(result_.staging_bytes, round.bytes);
  result_.placement.stored.push_back(std::move(stage));
  result_.steps.push_back(std::move(step));
  return absl::OkStatus();
}

// Replaces each fragment by what is left of it outside of `staged`.
void Stager::KeepDirect(const std::vector<Output>& outputs,
                        const std::vector<Box>& staged) {
  std::vector<const Box*> parts;
  for (const Box& box : staged) parts.push_back(&box);
  for (const Output& output : outputs) {
    const layout::Fragment& whole = FragmentOf(output);
    std::vector<layout::Fragment>& kept =
        result_.placement.stored[output.stored].fragments;
    // By content, since positions shift: a fragment is in there once, or was
    // replaced already for the same tensor, which happens once a matrix.
    const auto found = std::find(kept.begin(), kept.end(), whole);
    if (found == kept.end()) continue;
    kept.erase(found);
    for (const Box& box : SubtractAll(whole.map.box(), parts)) {
      for (layout::IndexMap& map : layout::Restrict(whole.map, box)) {
        kept.push_back({whole.tensor, std::move(map), whole.transform});
      }
    }
  }
}

// Adds to `stored` what a step writes of it.
void AddWritten(const layout::Fragment& fragment, const Box& box,
                layout::StoredTensor& stored) {
  for (layout::IndexMap& map : layout::Restrict(fragment.map, box)) {
    stored.fragments.push_back({fragment.tensor, std::move(map)});
  }
}

// Adds to the conversions of a plan what the steps do.
void AddQuantiseUses(const std::vector<QuantiseStep>& steps,
                     const std::vector<tensor::TensorSpec>& tensors,
                     std::vector<ConversionUse>& conversions) {
  std::vector<ConversionUse> uses;
  int32_t last_tensor = -1;
  for (const QuantiseStep& step : steps) {
    const tensor::Conversion conversion{tensors[step.tensor].dtype,
                                        tensor::DType::kF8E4M3};
    auto use = std::find_if(uses.begin(), uses.end(), [&](const auto& each) {
      return each.conversion == conversion;
    });
    if (use == uses.end()) {
      uses.push_back({conversion, /*lossy=*/true});
      use = uses.end() - 1;
    }
    // Steps of one matrix are neighbours.
    if (step.tensor != last_tensor) ++use->num_tensors;
    last_tensor = step.tensor;
    use->num_elements += step.box.num_elements();
  }
  conversions.insert(conversions.end(), uses.begin(), uses.end());
}

}  // namespace

absl::StatusOr<StagedTarget> StageTarget(const SourceIndex& sources,
                                         const manifest::Placement& target,
                                         const PlanLimits& limits) {
  return Stager(SourceTable::Of(sources), target, limits.staging_bytes / 2)
      .Run();
}

absl::Status CheckStages(const StagedTarget& staged,
                         const manifest::Placement& target) {
  base::FaultList faults;
  const auto& held = staged.placement.stored;
  if (staged.num_target_stored != target.stored.size() ||
      held.size() != target.stored.size() + staged.steps.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(held.size(), " stored tensors for ", target.stored.size(),
                     " of the target and ", staged.steps.size(), " stages"));
  }
  std::vector<layout::StoredTensor> written(
      held.begin(),
      held.begin() + static_cast<std::ptrdiff_t>(target.stored.size()));
  std::vector<bool> touched(target.stored.size(), false);
  for (const QuantiseStep& step : staged.steps) {
    const tensor::Shape& shape = target.tensors[step.tensor].shape;
    const layout::StoredTensor& stage = held[step.stage];
    if (!(tensor::ElementsOf(step.scheme, shape, step.blocks) == step.box) ||
        stage.fragments.size() != 1 ||
        stage.fragments[0].tensor != step.tensor ||
        !(stage.fragments[0].map.box() == step.box)) {
      faults.Add(absl::StrCat("stage \"", stage.name, "\" does not hold ",
                              step.box.ToString(), ", the elements of blocks ",
                              step.blocks.ToString()));
      continue;
    }
    for (const QuantiseStep::Output& output : step.elements) {
      AddWritten(target.stored[output.stored].fragments[output.fragment],
                 step.box, written[output.stored]);
      touched[output.stored] = true;
    }
    for (const QuantiseStep::Output& output : step.scales) {
      AddWritten(target.stored[output.stored].fragments[output.fragment],
                 step.blocks, written[output.stored]);
      touched[output.stored] = true;
    }
  }
  for (size_t i = 0; i < written.size(); ++i) {
    if (!touched[i]) continue;
    const absl::Status tiling =
        layout::CheckTiling(written[i], target.tensors, /*allow_holes=*/false);
    if (!tiling.ok()) faults.Add(std::string(tiling.message()));
  }
  return faults.ToStatus(absl::StatusCode::kFailedPrecondition);
}

absl::StatusOr<Plan> BuildStagedPlan(const SourceIndex& sources,
                                     const manifest::Placement& placement,
                                     const std::vector<QuantiseStep>& steps,
                                     const manifest::LayoutDigest& digest,
                                     const PlanLimits& limits) {
  WEFT_ASSIGN_OR_RETURN(Plan plan,
                        BuildPlan(sources, placement, digest, limits));
  AddQuantiseUses(steps, placement.tensors, plan.conversions);
  return plan;
}

absl::StatusOr<CompactPlan> BuildStagedCompactPlan(
    const SourceIndex& sources, const manifest::Placement& placement,
    const std::vector<QuantiseStep>& steps,
    const manifest::LayoutDigest& digest, const PlanLimits& limits) {
  WEFT_ASSIGN_OR_RETURN(CompactPlan plan,
                        BuildCompactPlan(sources, placement, digest, limits));
  AddQuantiseUses(steps, placement.tensors, plan.conversions);
  return plan;
}

std::vector<Plan> PlansOfRounds(const Plan& plan, const StagedTarget& staged) {
  // By stored tensor: 0 for the target's own, then the rounds.
  std::vector<size_t> part_of_stored(staged.placement.stored.size(), 0);
  for (size_t round = 0; round < staged.rounds.size(); ++round) {
    const StageRound& steps = staged.rounds[round];
    for (size_t i = 0; i < steps.num_steps; ++i) {
      part_of_stored[staged.steps[steps.first_step + i].stage] = round + 1;
    }
  }
  return SplitMoves(plan, staged.rounds.size() + 1, [&](const Move& move) {
    return part_of_stored[move.dst_stored];
  });
}

}  // namespace weft::plan
