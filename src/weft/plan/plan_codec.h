// A compact plan as bytes: written, read back, kept beside a run.
#ifndef WEFT_PLAN_PLAN_CODEC_H_
#define WEFT_PLAN_PLAN_CODEC_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "weft/plan/compact_plan.h"

namespace weft::plan {

// A plan file has at most this many moves; no plan within the default limits
// has a tenth of them.
inline constexpr int64_t kMaxPlanFileMoves = int64_t{1} << 26;

// Canonical bytes, format version 1 (docs/formats/plan_file.md): equal plans
// give equal bytes.
std::string EncodePlan(const CompactPlan& plan);

// Inverse; whatever it accepts, EncodePlan writes again byte for byte. It
// checks the form alone: CheckCompactPlan says whether a plan fits its sources
// and its target. kDataLoss on malformed bytes, kUnimplemented on another
// format version; never crashes or allocates more than the input justifies.
absl::StatusOr<CompactPlan> DecodePlan(std::string_view bytes);

}  // namespace weft::plan

#endif  // WEFT_PLAN_PLAN_CODEC_H_
