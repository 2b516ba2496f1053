// Inside of room `plan`: what is proven of a compact plan before its series are
// counted or expanded.
#ifndef WEFT_PLAN_CHECK_SERIES_H_
#define WEFT_PLAN_CHECK_SERIES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "weft/base/status.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/source_table.h"

namespace weft::plan {

// The moves of a series are its box, which is not empty, cut along `dim` into
// parts that follow each other without gap.
bool IsSeries(const MoveSeries& series);

// All of CheckCompactPlan but the runs and the sums.
absl::Status CheckSeries(const CompactPlan& plan, const SourceTable& sources,
                         const manifest::Placement& target);

// A plan names the target and the sources that it is checked against.
void CheckSides(int64_t target_rank,
                const manifest::LayoutDigest& source_digest,
                const SourceTable& sources, const manifest::Placement& target,
                base::FaultList& faults);

// The zero fills of a plan are those that the target declares, each once.
void CheckZeroFills(const std::vector<ZeroFill>& zero_fills,
                    const manifest::Placement& target, base::FaultList& faults);

// `zero_fills` must have passed CheckZeroFills.
int64_t ZeroFillBytes(const std::vector<ZeroFill>& zero_fills,
                      const manifest::Placement& target);

}  // namespace weft::plan

#endif  // WEFT_PLAN_CHECK_SERIES_H_
