// What differs between two descriptions of one rank, and between two plans
// for it.
#ifndef WEFT_PLAN_DIFF_PLACEMENTS_H_
#define WEFT_PLAN_DIFF_PLACEMENTS_H_

#include <string>
#include <vector>

#include "weft/plan/compact_plan.h"

namespace weft::plan {

struct StoredDifference {
  std::string stored;
  // "held" (by one side only), "dtype", "shape", "boxes" (other parts of
  // logical tensors), "places" (the same parts elsewhere), "sources".
  std::string what;
  std::string ours;
  std::string theirs;
  friend bool operator==(const StoredDifference&,
                         const StoredDifference&) = default;
};

// Stored tensors that the two do not describe alike, by name. How boxes are
// cut into fragments makes no difference, only which element lies where.
std::vector<StoredDifference> DiffPlacements(const manifest::Placement& ours,
                                             const manifest::Placement& theirs);

// Stored tensors of both targets that do not take the same bytes from the same
// source ranks, by name.
std::vector<StoredDifference> DiffSources(const CompactPlan& our_plan,
                                          const manifest::Placement& ours,
                                          const CompactPlan& their_plan,
                                          const manifest::Placement& theirs);

}  // namespace weft::plan

#endif  // WEFT_PLAN_DIFF_PLACEMENTS_H_
