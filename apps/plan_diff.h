// What `weft plan --diff` says: two plans of one model, or an engine's own
// description of a rank beside the recipe's.
#ifndef WEFT_APPS_PLAN_DIFF_H_
#define WEFT_APPS_PLAN_DIFF_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fleet_report.h"
#include "plan_job.h"
#include "weft/plan/diff_placements.h"

namespace weft::apps {

struct RankDifference {
  int64_t rank = 0;
  plan::StoredDifference difference;
};

// One paragraph for each pattern of names, in which a line for each kind of
// difference, with the first rank and tensor as the example.
std::string FormatDifferences(const std::vector<RankDifference>& all);
// A list of objects.
nlohmann::json DifferencesJson(const std::vector<RankDifference>& all);

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
