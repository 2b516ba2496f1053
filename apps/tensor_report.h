// What `weft plan --tensor` says of one tensor.
#ifndef WEFT_APPS_TENSOR_REPORT_H_
#define WEFT_APPS_TENSOR_REPORT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "plan_job.h"

namespace weft::apps {

// A table of where each box of tensor `name` comes from, by which rules, and
// what is done to it, or JSON. Draws it into `svg_path` unless that is empty.
// `plans`: of all engine ranks.
absl::StatusOr<std::string> DescribeTensor(
    const PlanJob& job, const std::vector<plan::CompactPlan>& plans,
    const std::string& name, const std::string& svg_path, bool json);

}  // namespace weft::apps

#endif  // WEFT_APPS_TENSOR_REPORT_H_
