// A planning job from a config and two layout specs: placements of all ranks.
#ifndef WEFT_APPS_PLAN_JOB_H_
#define WEFT_APPS_PLAN_JOB_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/plan.h"
#include "weft/plan/stages.h"
#include "weft/recipe/recipe.h"

namespace weft::apps {

// What the steps of one target take.
struct Staging {
  size_t rounds = 0;
  int64_t bytes = 0;  // of the largest round
};

struct PlanJob {
  std::string model_name;  // the config's architecture
  std::string from_text;   // canonical specs
  std::string to_text;
  std::vector<tensor::TensorSpec> logical;  // of the checkpoint
  // Pointed to by `index`: never resized after Make.
  std::vector<manifest::Placement> sources;
  // With stages, if some of a target's matrices are quantised on arrival.
  std::vector<manifest::Placement> targets;
  std::vector<std::vector<plan::QuantiseStep>> steps;  // by target
  std::vector<Staging> staging;                        // for its steps
  std::vector<manifest::LayoutDigest> target_digests;
  recipe::RecipeBook recipes;  // whose text the origins are
  // The rule that made each stored tensor, by rank and index: "llama.yaml:120".
  std::vector<std::vector<std::string_view>> source_origins;
  std::vector<std::vector<std::string_view>> target_origins;
  std::shared_ptr<const plan::SourceIndex> index;
};

// Without stages the targets are as an engine holds them: to be read, not
// planned.
absl::StatusOr<PlanJob> MakePlanJob(const std::string& config_path,
                                    const std::string& recipes_path,
                                    const std::string& from,
                                    const std::string& to,
                                    bool with_stages = true);

absl::StatusOr<plan::CompactPlan> PlanRank(const PlanJob& job, int64_t rank);

// The moves and runs of a plan that PlanRank made.
absl::StatusOr<plan::Plan> ExpandRank(const PlanJob& job,
                                      const plan::CompactPlan& plan);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLAN_JOB_H_
