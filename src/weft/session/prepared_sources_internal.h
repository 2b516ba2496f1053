// Everything that belongs to one set of sources: made once, used by every refit
// until the set changes.
#ifndef WEFT_SESSION_PREPARED_SOURCES_INTERNAL_H_
#define WEFT_SESSION_PREPARED_SOURCES_INTERNAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/manifest/placement.h"
#include "weft/plan/plan.h"
#include "weft/session/bound_internal.h"
#include "weft/session/memory_area.h"
#include "weft/session/plan_cache_internal.h"
#include "weft/session/receiver.h"
#include "weft/session/receiver_plan_internal.h"
#include "weft/session/source_choice_internal.h"
#include "weft/session/source_link_internal.h"
#include "weft/session/transfer_internal.h"

namespace weft::session {

// `options` are the receiver's in all calls, and outlive it. Members in order
// of dependence.
struct PreparedSources {
  uint64_t source_set = 0;
  std::string model_card_digest_hex;
  std::vector<ChosenSource> sources;
  std::shared_ptr<const plan::SourceIndex> index;
  std::shared_ptr<const StagedPlan> planned;
  std::vector<std::unique_ptr<SourceLink>> links;  // one a plan peer, in order
  // By the set of memory that they write, made when it is needed.
  std::array<std::unique_ptr<Transfer>, 2> transfers;
  bool connected = false;
  Bound bound;

  // With a plan, from `plans` or built now, which `plans_built` counts; without
  // links.
  static absl::StatusOr<std::unique_ptr<PreparedSources>> Plan(
      const SourceChoice& choice, const manifest::LayoutDigest& target_digest,
      const ReceiverOptions& options, PlanCache& plans, int64_t& plans_built);

  // Opens the links. `unreachable`: the rank in the plan of a source that is
  // not there.
  absl::Status Connect(const ReceiverOptions& options,
                       std::optional<int64_t>& unreachable,
                       base::Deadline deadline);
  // What is in flight may still write, and answers nothing that comes later.
  void Disconnect();

  // Into `memory`, which is the receiver's `set`; it outlives the links.
  absl::StatusOr<Transfer*> TransferInto(size_t set, const RankMemory& memory,
                                         const ReceiverOptions& options);
};

}  // namespace weft::session

#endif  // WEFT_SESSION_PREPARED_SOURCES_INTERNAL_H_
