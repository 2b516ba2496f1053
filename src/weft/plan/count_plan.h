// The sums of a plan, and parts of plans.
#ifndef WEFT_PLAN_COUNT_PLAN_H_
#define WEFT_PLAN_COUNT_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "weft/plan/plan.h"

namespace weft::plan {

// Gives every witness its place in scratch, in the order of the plan, and
// fills in the peers' bytes, the conversions and all totals but
// zero_fill_bytes. kResourceExhausted if scratch is more than 64 bits count.
absl::Status CountPlan(Plan& plan, int64_t staging_bytes);

// The plan in `num_parts` plans: each move, with its witnesses, in the one that
// `part_of` says, asked in the plan's order; the zero fills in the first.
// Counted anew.
std::vector<Plan> SplitMoves(const Plan& plan, size_t num_parts,
                             absl::FunctionRef<size_t(const Move&)> part_of);

}  // namespace weft::plan

#endif  // WEFT_PLAN_COUNT_PLAN_H_
