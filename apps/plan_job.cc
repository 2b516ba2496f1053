#include "plan_job.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "weft/recipe/recipe.h"
#include "weft/session/rank_placement.h"

namespace weft::apps {
namespace {

absl::StatusOr<std::vector<manifest::Placement>> AllRanks(
    const recipe::Recipe& recipe, const recipe::ModelConfig& config,
    const recipe::LayoutSpec& spec,
    const std::vector<tensor::TensorSpec>& logical) {
  WEFT_ASSIGN_OR_RETURN(const int64_t num_ranks, recipe.NumRanks(config, spec));
  std::vector<manifest::Placement> placements;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    WEFT_ASSIGN_OR_RETURN(recipe::RankLayout layout,
                          recipe.Layout(config, spec, rank, logical));
    placements.push_back(session::ToPlacement(std::move(layout)));
  }
  return placements;
}

}  // namespace

absl::StatusOr<PlanJob> MakePlanJob(const std::string& config_path,
                                    const std::string& recipes_path,
                                    const std::string& from,
                                    const std::string& to) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec from_spec,
                        recipe::ParseLayoutSpec(from));
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec to_spec,
                        recipe::ParseLayoutSpec(to));
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::LoadModelConfig(config_path));
  WEFT_ASSIGN_OR_RETURN(const recipe::RecipeBook book,
                        recipe::RecipeBook::Load(recipes_path));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* recipe,
                        book.Find(config.architecture));
  WEFT_ASSIGN_OR_RETURN(const std::vector<tensor::TensorSpec> logical,
                        recipe->LogicalTensors(config));
  PlanJob job;
  job.model_name = config.architecture;
  job.from_text = from_spec.ToString();
  job.to_text = to_spec.ToString();
  WEFT_ASSIGN_OR_RETURN(job.sources,
                        AllRanks(*recipe, config, from_spec, logical));
  WEFT_ASSIGN_OR_RETURN(job.targets,
                        AllRanks(*recipe, config, to_spec, logical));
  for (const manifest::Placement& target : job.targets) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(manifest::CheckPlacement(target, /*is_target=*/true),
                       absl::StrCat("engine rank ", target.rank)));
    job.target_digests.push_back(
        manifest::DigestOf(manifest::EncodePlacement(target)));
  }
  std::vector<plan::SourceInfo> infos;
  for (const manifest::Placement& source : job.sources) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(manifest::CheckPlacement(source, /*is_target=*/false),
                       absl::StrCat("trainer rank ", source.rank)));
    infos.push_back(
        {&source, manifest::DigestOf(manifest::EncodePlacement(source)), 0});
  }
  WEFT_ASSIGN_OR_RETURN(job.index, plan::SourceIndex::Make(std::move(infos)));
  job.steps.resize(job.targets.size());
  for (std::size_t r = 0; r < job.targets.size(); ++r) {
    if (job.targets[r].scaled.empty()) continue;
    WEFT_ASSIGN_OR_RETURN(
        plan::StagedTarget staged,
        plan::StageTarget(*job.index, job.targets[r],
                          plan::PlanLimits{}.staging_bytes / 2));
    job.targets[r] = std::move(staged.placement);
    job.steps[r] = std::move(staged.steps);
  }
  return job;
}

absl::StatusOr<plan::Plan> PlanRank(const PlanJob& job, int64_t rank) {
  const auto r = static_cast<std::size_t>(rank);
  WEFT_ASSIGN_OR_RETURN(
      plan::Plan plan,
      plan::BuildPlan(*job.index, job.targets[r], job.target_digests[r], {}));
  plan::AddQuantiseUses(job.steps[r], job.targets[r].tensors, plan);
  return plan;
}

}  // namespace weft::apps
