#include "weft/catalog/event.h"

namespace weft::catalog {

std::string_view ToString(EventKind kind) {
  switch (kind) {
    case EventKind::kWorkerRegistered:
      return "worker-registered";
    case EventKind::kWorkerAttached:
      return "worker-attached";
    case EventKind::kWorkerOrphaned:
      return "worker-orphaned";
    case EventKind::kWorkerReattached:
      return "worker-reattached";
    case EventKind::kWorkerDied:
      return "worker-died";
    case EventKind::kWorkerFenced:
      return "worker-fenced";
    case EventKind::kWorkerDropped:
      return "worker-dropped";
    case EventKind::kTakeover:
      return "takeover";
    case EventKind::kShardPublished:
      return "shard-published";
    case EventKind::kVersionStaging:
      return "version-staging";
    case EventKind::kVersionReady:
      return "version-ready";
    case EventKind::kVersionRetiring:
      return "version-retiring";
    case EventKind::kVersionGone:
      return "version-gone";
    case EventKind::kLeaseAcquired:
      return "lease-acquired";
    case EventKind::kLeaseReleased:
      return "lease-released";
    case EventKind::kLeaseRevoked:
      return "lease-revoked";
    case EventKind::kCommitted:
      return "committed";
    case EventKind::kCommitRefused:
      return "commit-refused";
    case EventKind::kReceiverFenced:
      return "receiver-fenced";
    case EventKind::kServing:
      return "serving";
    case EventKind::kShardLost:
      return "shard-lost";
    case EventKind::kCopyPublished:
      return "copy-published";
    case EventKind::kCopyWithdrawn:
      return "copy-withdrawn";
  }
  return "unknown";
}

absl::StatusOr<std::vector<LeaseRecord>> CatalogStore::ListLeases(
    const std::string& /*model*/, base::Deadline /*deadline*/) {
  return absl::UnimplementedError("this store does not list leases");
}

absl::StatusOr<EventPage> CatalogStore::ReadEvents(
    const EventQuery& /*query*/, base::Deadline /*deadline*/) {
  return absl::UnimplementedError("this store keeps no events");
}

}  // namespace weft::catalog
