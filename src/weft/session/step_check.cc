#include "absl/strings/str_cat.h"
#include "weft/session/step_check_internal.h"

namespace weft::session {

absl::Status CheckStep(const ReceiverOptions& options,
                       const std::optional<catalog::VersionId>& committed,
                       const catalog::VersionId& version) {
  if (!options.refuse_lower_step || !committed.has_value() ||
      committed->run_id != version.run_id || version.step >= committed->step) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "version ", catalog::ToString(version), " of model \"", options.model,
      "\" is refused: its step ", version.step, " is lower than step ",
      committed->step, " of ", catalog::ToString(*committed),
      ", which this receiver has committed; publish step ", committed->step,
      " or a later one, or make the receiver without refuse_lower_step if the "
      "trainer goes back on purpose"));
}

}  // namespace weft::session
