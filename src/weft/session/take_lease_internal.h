// The lease of a version, now or when there is one.
#ifndef WEFT_SESSION_TAKE_LEASE_INTERNAL_H_
#define WEFT_SESSION_TAKE_LEASE_INTERNAL_H_

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/session/membership_internal.h"
#include "weft/session/receiver.h"

namespace weft::session {

struct WantedVersion {
  const catalog::VersionId* version = nullptr;     // null: the newest
  const catalog::VersionId* newer_than = nullptr;  // null: any
};

// One call when the version is READY. Else says at once what is wrong with this
// receiver or the catalog, or waits. Of a trainer that updates faster than a
// receiver asks, the newest version may be GONE before it is leased: then a
// later one is waited for.
absl::StatusOr<catalog::Lease> TakeLeaseOf(const WantedVersion& wanted,
                                           Membership& place,
                                           const ReceiverOptions& options,
                                           base::Deadline deadline);

}  // namespace weft::session

#endif  // WEFT_SESSION_TAKE_LEASE_INTERNAL_H_
