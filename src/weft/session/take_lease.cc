#include <optional>

#include "absl/status/status.h"
#include "weft/base/status.h"
#include "weft/session/take_lease_internal.h"

namespace weft::session {
namespace {

bool MayComeYet(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

absl::StatusOr<catalog::Lease> TakeLeaseOf(const WantedVersion& wanted,
                                           Membership& place,
                                           const ReceiverOptions& options,
                                           base::Deadline deadline) {
  absl::StatusOr<catalog::Lease> lease =
      place.AcquireLease(wanted.version, wanted.newer_than, deadline);
  std::optional<catalog::VersionId> refused;
  while (MayComeYet(lease.status())) {
    WEFT_ASSIGN_OR_RETURN(
        const catalog::VersionRecord ready,
        catalog::WaitForReady(*options.catalog, options.model, wanted.version,
                              wanted.newer_than, deadline,
                              options.while_waiting));
    // READY still, so that it is not the version that is at fault.
    if (refused == ready.version) return lease;
    refused = ready.version;
    lease = place.AcquireLease(&ready.version, nullptr, deadline);
  }
  return lease;
}

}  // namespace weft::session
