// Whether a receiver may go to a version by its step.
#ifndef WEFT_SESSION_STEP_CHECK_INTERNAL_H_
#define WEFT_SESSION_STEP_CHECK_INTERNAL_H_

#include <optional>

#include "absl/status/status.h"
#include "weft/catalog/store.h"
#include "weft/session/receiver.h"

namespace weft::session {

// kFailedPrecondition if ReceiverOptions::refuse_lower_step speaks against
// `version` after `committed`. Steps of two runs are not compared.
absl::Status CheckStep(const ReceiverOptions& options,
                       const std::optional<catalog::VersionId>& committed,
                       const catalog::VersionId& version);

}  // namespace weft::session

#endif  // WEFT_SESSION_STEP_CHECK_INTERNAL_H_
