// The plans that a receiver has made, found again by what they were made for.
#ifndef WEFT_SESSION_PLAN_CACHE_INTERNAL_H_
#define WEFT_SESSION_PLAN_CACHE_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/manifest/placement.h"
#include "weft/session/receiver_plan_internal.h"
#include "weft/session/source_choice_internal.h"

namespace weft::session {

// Of one receiver: its target and options are the same for all of its plans.
// Which processes the sources are is no part of a plan, so one serves whichever
// copies of equal placements happen to be there. Not thread-safe.
class PlanCache {
 public:
  // Copies of one placement that a receiver reads from differ from version to
  // version in their number alone: one plan for each.
  static constexpr std::size_t kPlansKept = kCopiesReadAtOnce + 1;

  using Made = absl::StatusOr<std::shared_ptr<const StagedPlan>>;
  // The plan for `sources`: one that is kept, or what `make` returns, which is
  // kept then in place of the one that was not asked for longest.
  Made FindOrMake(absl::Span<const ChosenSource> sources,
                  absl::FunctionRef<Made()> make);

 private:
  // All that a plan takes from a source.
  struct SourceKey {
    int64_t rank = 0;
    manifest::LayoutDigest digest;
    int32_t distance = 0;
    friend bool operator==(const SourceKey&, const SourceKey&) = default;
  };
  struct Entry {
    std::vector<SourceKey> key;
    std::shared_ptr<const StagedPlan> planned;
  };

  std::list<Entry> entries_;  // the last one asked for in front
};

}  // namespace weft::session

#endif  // WEFT_SESSION_PLAN_CACHE_INTERNAL_H_
