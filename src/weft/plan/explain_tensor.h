// One tensor of a fleet's plan: where each box of it comes from, as rows and as
// a picture.
#ifndef WEFT_PLAN_EXPLAIN_TENSOR_H_
#define WEFT_PLAN_EXPLAIN_TENSOR_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/plan.h"

namespace weft::plan {

// A move into one engine rank, or a box that is filled with zeros
// (src_rank == -1; its box is in coordinates of the stored tensor then).
struct TensorPart {
  int64_t dst_rank = 0;
  std::string dst_stored;
  std::string logical;  // empty for zeros
  tensor::Box box;
  int64_t src_rank = -1;
  std::string src_stored;
  // The two stored tensors in their placements; zeros have no source.
  int32_t dst_index = -1;
  int32_t src_index = -1;
  tensor::Conversion conversion;
  int64_t bytes = 0;  // at the destination
  int64_t num_runs = 0;
  int64_t contiguous_bytes = 0;  // of the shortest run, at the source
};

// Parts of the logical tensor `name`, or of the stored tensor `name` of the
// engine, by engine rank and then in the order of the plan. `targets[i]` is the
// placement behind `plans[i]`. kNotFound lists names that are near.
absl::StatusOr<std::vector<TensorPart>> ExplainTensor(
    const std::vector<CompactPlan>& plans,
    const std::vector<manifest::Placement>& targets, const SourceIndex& sources,
    std::string_view name);

// A picture of the logical tensor `name`, whose `parts` ExplainTensor gave: on
// the left which source rank holds which part, on the right which engine rank
// takes which part, in the colour of the source that it reads. Leading
// dimensions are unrolled into rows. SVG. kNotFound for another name.
absl::StatusOr<std::string> DrawTensor(
    const std::vector<TensorPart>& parts,
    const std::vector<manifest::Placement>& targets, const SourceIndex& sources,
    std::string_view name);

// `text` as it stands between tags of SVG and HTML.
std::string EscapedForMarkup(std::string_view text);

}  // namespace weft::plan

#endif  // WEFT_PLAN_EXPLAIN_TENSOR_H_
