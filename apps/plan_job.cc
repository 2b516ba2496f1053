#include "plan_job.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "weft/plan/stages.h"
#include "weft/recipe/recipe.h"
#include "weft/session/rank_placement.h"

namespace weft::apps {
namespace {

// One side of a job.
struct Side {
  std::vector<manifest::Placement>& placements;
  std::vector<std::vector<std::string_view>>& origins;
};

absl::Status LayOutAllRanks(const recipe::Recipe& recipe,
                            const recipe::ModelConfig& config,
                            const recipe::LayoutSpec& spec,
                            const std::vector<tensor::TensorSpec>& logical,
                            Side side) {
  WEFT_ASSIGN_OR_RETURN(std::vector<recipe::RankLayout> layouts,
                        recipe.Layouts(config, spec, logical));
  side.placements.reserve(layouts.size());
  for (recipe::RankLayout& layout : layouts) {
    side.origins.push_back(std::move(layout.origins));
    side.placements.push_back(session::ToPlacement(std::move(layout)));
  }
  return absl::OkStatus();
}

// Puts stages where the sources hold nothing in the target's form.
absl::Status StageTargets(PlanJob& job) {
  job.steps.resize(job.targets.size());
  job.staging.resize(job.targets.size());
  for (size_t r = 0; r < job.targets.size(); ++r) {
    manifest::Placement& target = job.targets[r];
    if (target.scaled.empty()) continue;
    absl::StatusOr<plan::StagedTarget> staged =
        plan::StageTarget(*job.index, target, {});
    WEFT_RETURN_IF_ERROR(base::Annotate(
        staged.status(), absl::StrCat("engine rank ", target.rank)));
    job.staging[r] = {staged->rounds.size(), staged->staging_bytes};
    target = std::move(staged->placement);
    job.steps[r] = std::move(staged->steps);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PlanJob> MakePlanJob(const std::string& config_path,
                                    const std::string& recipes_path,
                                    const std::string& from,
                                    const std::string& to, bool with_stages) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec from_spec,
                        recipe::ParseLayoutSpec(from));
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec to_spec,
                        recipe::ParseLayoutSpec(to));
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::LoadModelConfig(config_path));
  PlanJob job;
  WEFT_ASSIGN_OR_RETURN(job.recipes, recipe::RecipeBook::Load(recipes_path));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* recipe,
                        job.recipes.Find(config.architecture));
  WEFT_ASSIGN_OR_RETURN(job.logical, recipe->LogicalTensors(config));
  job.model_name = config.architecture;
  job.from_text = from_spec.ToString();
  job.to_text = to_spec.ToString();
  WEFT_RETURN_IF_ERROR(LayOutAllRanks(*recipe, config, from_spec, job.logical,
                                      {job.sources, job.source_origins}));
  WEFT_RETURN_IF_ERROR(LayOutAllRanks(*recipe, config, to_spec, job.logical,
                                      {job.targets, job.target_origins}));
  for (const manifest::Placement& target : job.targets) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(manifest::CheckPlacement(target, /*is_target=*/true),
                       absl::StrCat("engine rank ", target.rank)));
    job.target_digests.push_back(
        manifest::DigestOf(manifest::EncodePlacement(target)));
  }
  std::vector<plan::SourceInfo> infos;
  for (manifest::Placement& source : job.sources) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(session::AddQuantisedCopies(source),
                       absl::StrCat("trainer rank ", source.rank)));
    WEFT_RETURN_IF_ERROR(
        base::Annotate(manifest::CheckPlacement(source, /*is_target=*/false),
                       absl::StrCat("trainer rank ", source.rank)));
    infos.push_back(
        {&source, manifest::DigestOf(manifest::EncodePlacement(source)), 0});
  }
  WEFT_ASSIGN_OR_RETURN(job.index, plan::SourceIndex::Make(std::move(infos)));
  if (with_stages) WEFT_RETURN_IF_ERROR(StageTargets(job));
  return job;
}

absl::StatusOr<plan::CompactPlan> PlanRank(const PlanJob& job, int64_t rank) {
  const auto r = static_cast<std::size_t>(rank);
  return plan::BuildStagedCompactPlan(*job.index, job.targets[r], job.steps[r],
                                      job.target_digests[r], {});
}

absl::StatusOr<plan::Plan> ExpandRank(const PlanJob& job,
                                      const plan::CompactPlan& plan) {
  return plan::ExpandPlan(plan, *job.index, job.targets[plan.target_rank], {});
}

}  // namespace weft::apps
