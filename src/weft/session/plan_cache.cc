#include <algorithm>
#include <utility>

#include "weft/base/status.h"
#include "weft/session/plan_cache_internal.h"

namespace weft::session {

PlanCache::Made PlanCache::FindOrMake(absl::Span<const ChosenSource> sources,
                                      absl::FunctionRef<Made()> make) {
  Entry wanted;
  for (const ChosenSource& source : sources) {
    wanted.key.push_back({.rank = source.record.rank,
                          .digest = source.placement->digest,
                          .distance = source.distance});
  }
  const auto found =
      std::find_if(entries_.begin(), entries_.end(),
                   [&](const Entry& entry) { return entry.key == wanted.key; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
    return entries_.front().planned;
  }
  WEFT_ASSIGN_OR_RETURN(wanted.planned, make());
  entries_.push_front(std::move(wanted));
  if (entries_.size() > kPlansKept) entries_.pop_back();
  return entries_.front().planned;
}

}  // namespace weft::session
