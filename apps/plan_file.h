// Plans in files (docs/formats/plan_file.md).
#ifndef WEFT_APPS_PLAN_FILE_H_
#define WEFT_APPS_PLAN_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "plan_job.h"
#include "weft/plan/compact_plan.h"

namespace weft::apps {

// As it stands in a file, packed.
std::string PlanFileBytes(const plan::CompactPlan& plan);

// True if the file begins as a plan file does.
bool IsPlanFile(const std::string& path);

absl::StatusOr<plan::CompactPlan> LoadPlan(const std::string& path);

// The plan in the file at `path` beside the job's own for that engine rank:
// whether it still fits the layouts, and what comes from elsewhere. Text, or
// one JSON object (docs/formats/plan.md). kInvalidArgument if the layout has no
// such rank.
absl::StatusOr<std::string> DiffPlanFile(const PlanJob& job,
                                         const std::string& path, bool json);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLAN_FILE_H_
