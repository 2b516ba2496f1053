// Inside of room `plan`: runs of one box between two index maps.
#ifndef WEFT_PLAN_MOVE_RUNS_H_
#define WEFT_PLAN_MOVE_RUNS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/index_map.h"
#include "weft/layout/run.h"

namespace weft::plan {

// The runs for all x in `box`, which must lie in both maps' boxes, each x
// once. kResourceExhausted when more than `max_runs` are needed.
absl::StatusOr<std::vector<layout::Run>> RunsOfBox(const layout::IndexMap& src,
                                                   const layout::IndexMap& dst,
                                                   const tensor::Box& box,
                                                   int64_t max_runs);

// The row-major block that a witness's box becomes in scratch.
absl::StatusOr<layout::IndexMap> ScratchMap(const tensor::Box& box);

}  // namespace weft::plan

#endif  // WEFT_PLAN_MOVE_RUNS_H_
