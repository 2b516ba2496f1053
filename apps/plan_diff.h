// What `weft plan --diff` says: two plans of one model, or an engine's own
// description of a rank beside the recipe's.
#ifndef WEFT_APPS_PLAN_DIFF_H_
#define WEFT_APPS_PLAN_DIFF_H_

#include <string>

#include "absl/status/statusor.h"
#include "fleet_report.h"
#include "plan_job.h"

namespace weft::apps {

// Rank by rank, the stored tensors of the engine that differ in what they
// hold or where it comes from, and bytes by trainer rank. Text, or one JSON
// object (docs/formats/plan.md).
std::string DiffFleets(const PlanJob& our_job, const FleetResult& ours,
                       const PlanJob& their_job, const FleetResult& theirs,
                       bool json);

// The placement in the file at `path` beside what the recipe says of that
// rank. kInvalidArgument if the layout has no such rank.
absl::StatusOr<std::string> DiffCaptured(const PlanJob& job,
                                         const std::string& path, bool json);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLAN_DIFF_H_
