// What a receiver plans for a set of sources.
#ifndef WEFT_SESSION_RECEIVER_PLAN_INTERNAL_H_
#define WEFT_SESSION_RECEIVER_PLAN_INTERNAL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/manifest/placement.h"
#include "weft/plan/plan.h"
#include "weft/plan/stages.h"
#include "weft/session/receiver.h"
#include "weft/session/source_choice_internal.h"

namespace weft::session {

struct StagedPlan {
  plan::StagedTarget staged;
  plan::Plan plan;        // for staged.placement
  std::string not_taken;  // RefitReport::not_taken
};

// All that speaks against a plan at once, with kPlanRefusedPayload.
absl::StatusOr<std::shared_ptr<const StagedPlan>> PlanForReceiver(
    const plan::SourceIndex& index, absl::Span<const ChosenSource> sources,
    const manifest::LayoutDigest& target_digest,
    const ReceiverOptions& options);

}  // namespace weft::session

#endif  // WEFT_SESSION_RECEIVER_PLAN_INTERNAL_H_
