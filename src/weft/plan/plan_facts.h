// Inside of room `plan`: the figures that both explanations print.
#ifndef WEFT_PLAN_PLAN_FACTS_H_
#define WEFT_PLAN_PLAN_FACTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "weft/plan/explain.h"

namespace weft::plan {

struct PeerFacts {
  int64_t rank = 0;
  int32_t distance = 0;
  int64_t moves = 0;
  int64_t runs = 0;
  int64_t src_bytes = 0;
  int64_t witness_bytes = 0;
  double share = 0;  // of the plan's src_bytes; 0 when there are none
};

// Runs whose contiguous bytes lie in [min_bytes, end_bytes); end_bytes == 0
// for the last, open bucket.
struct RunBucket {
  int64_t min_bytes = 0;
  int64_t end_bytes = 0;
  int64_t runs = 0;
  int64_t pieces = 0;  // contiguous stretches
  int64_t src_bytes = 0;
};

struct TensorFacts {
  std::string name;
  int64_t sources = 0;  // source ranks
  int64_t moves = 0;
  int64_t runs = 0;
  int64_t src_bytes = 0;
  int64_t shortest_run_bytes = 0;
};

struct ZeroFillFacts {
  std::string stored;
  int64_t boxes = 0;
  int64_t bytes = 0;
};

struct PlanFacts {
  std::string source_layout;
  int64_t sources_present = 0;
  int64_t sources_expected = 0;
  std::string target_layout;
  std::vector<PeerFacts> peers;        // as in the plan
  std::vector<RunBucket> run_lengths;  // ascending, the empty ones too
  std::vector<TensorFacts> tensors;    // by descending bytes, then name
  std::vector<ZeroFillFacts> zero_fills;
  int64_t direct_bytes = 0;  // in runs of kDirectRunBytes or more
  int64_t staged_bytes = 0;  // in shorter ones
  int64_t dst_elements = 0;  // moved and zero-filled
  absl::Status coverage;     // CheckCoverage, run again
  // Every byte that the plan reads, at the given rate; 0 if it is not known.
  double bound_seconds = 0;
  double expected_seconds = 0;  // bound / kExpectedEfficiency
};

// What transfers are built to reach of the bound (docs/design.md section 10).
inline constexpr double kExpectedEfficiency = 0.90;

PlanFacts GatherFacts(const Plan& plan, const SourceIndex& sources,
                      const manifest::Placement& target,
                      const ExplainOptions& options);

}  // namespace weft::plan

#endif  // WEFT_PLAN_PLAN_FACTS_H_
