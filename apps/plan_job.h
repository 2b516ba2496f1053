// A planning job from a config and two layout specs: placements of all ranks.
#ifndef WEFT_APPS_PLAN_JOB_H_
#define WEFT_APPS_PLAN_JOB_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/plan/plan.h"
#include "weft/plan/stages.h"

namespace weft::apps {

struct PlanJob {
  std::string model_name;  // the config's architecture
  std::string from_text;   // canonical specs
  std::string to_text;
  // Pointed to by `index`: never resized after Make.
  std::vector<manifest::Placement> sources;
  // With stages, if some of a target's matrices are quantised on arrival.
  std::vector<manifest::Placement> targets;
  std::vector<std::vector<plan::QuantiseStep>> steps;  // by target
  std::vector<manifest::LayoutDigest> target_digests;
  std::shared_ptr<const plan::SourceIndex> index;
};

absl::StatusOr<PlanJob> MakePlanJob(const std::string& config_path,
                                    const std::string& recipes_path,
                                    const std::string& from,
                                    const std::string& to);

absl::StatusOr<plan::Plan> PlanRank(const PlanJob& job, int64_t rank);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLAN_JOB_H_
