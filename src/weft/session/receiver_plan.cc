#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/session/receiver_plan_internal.h"
#include "weft/session/transfer_internal.h"
#include "weft/session/unknown_tensors_internal.h"

namespace weft::session {

absl::StatusOr<std::shared_ptr<const StagedPlan>> PlanForReceiver(
    const plan::SourceIndex& index, absl::Span<const ChosenSource> sources,
    const manifest::LayoutDigest& target_digest,
    const ReceiverOptions& options) {
  auto planned = std::make_shared<StagedPlan>();
  WEFT_ASSIGN_OR_RETURN(planned->staged, StageForTransfer(index, options));
  absl::StatusOr<plan::Plan> built = plan::BuildStagedPlan(
      index, planned->staged.placement, planned->staged.steps, target_digest,
      options.limits);
  base::FaultList faults;
  if (!built.ok()) faults.Add(std::string(built.status().message()));
  const UnknownTensors unknown =
      FindUnknownTensors(options.known_tensors, sources);
  for (const std::string& name : unknown.parts) {
    faults.Add(absl::StrCat(
        "the trainer publishes \"", name,
        "\", which this model does not have: it would be served without"));
  }
  planned->not_taken = DescribeOthers(unknown);
  if (options.refuse_unknown_tensors && !planned->not_taken.empty()) {
    faults.Add(absl::StrCat(
        planned->not_taken,
        "; publish the model that is served here, or make the receiver without "
        "refuse_unknown_tensors if the trainer has more on purpose"));
  }
  if (!faults.empty()) {
    absl::Status refused =
        faults.ToStatus(built.ok() ? absl::StatusCode::kFailedPrecondition
                                   : built.status().code());
    refused.SetPayload(kPlanRefusedPayload, absl::Cord());
    return refused;
  }
  planned->plan = *std::move(built);
  return planned;
}

}  // namespace weft::session
