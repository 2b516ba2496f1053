// Which sources failed a refit, and who took their place.
#ifndef WEFT_SESSION_LOST_SOURCES_INTERNAL_H_
#define WEFT_SESSION_LOST_SOURCES_INTERNAL_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/plan/plan.h"
#include "weft/session/receiver.h"
#include "weft/session/source_choice_internal.h"
#include "weft/session/source_link_internal.h"

namespace weft::session {

struct LostSource {
  int64_t rank = 0;  // in the plan
  std::string name;
  std::string why;
};

// After a transfer of `version` that failed with `failure`: the sources whose
// peer is gone, and the copies that hold another version or bytes without their
// digests (`failed_ranks`). A publisher of which the same can be said is not
// among them: its version ends, and its bytes say so to everybody.
std::vector<LostSource> FindLost(
    absl::Span<const std::unique_ptr<SourceLink>> links,
    absl::Span<const ChosenSource> sources, const catalog::VersionId& version,
    const std::set<int64_t>& failed_ranks, const absl::Status& failure,
    base::Deadline deadline);

// What `after` does in place of the lost peers of `before`, plans of one
// target.
std::vector<ReplacedSource> DescribeReplacements(
    absl::Span<const LostSource> lost, const plan::Plan& before,
    const plan::Plan& after, absl::Span<const ChosenSource> sources);

}  // namespace weft::session

#endif  // WEFT_SESSION_LOST_SOURCES_INTERNAL_H_
