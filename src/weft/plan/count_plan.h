// Inside of room `plan`: the sums of a plan, and parts of plans.
#ifndef WEFT_PLAN_COUNT_PLAN_H_
#define WEFT_PLAN_COUNT_PLAN_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "weft/plan/plan.h"

namespace weft::plan {

// Gives every witness its place in scratch, in the order of the plan, and
// fills in the peers' bytes, the conversions and all totals but
// zero_fill_bytes. kResourceExhausted if scratch is more than 64 bits count.
absl::Status CountPlan(Plan& plan, int64_t staging_bytes);

// The plan with only the moves that are wanted, their witnesses, and the zero
// fills or none. Counted anew.
Plan SelectMoves(const Plan& plan, absl::FunctionRef<bool(const Move&)> wanted,
                 bool with_zero_fills);

}  // namespace weft::plan

#endif  // WEFT_PLAN_COUNT_PLAN_H_
