// Structs of store.h <-> messages of catalog.proto, and absl::Status <->
// grpc::Status.
#ifndef WEFT_CATALOG_GRPC_MESSAGES_INTERNAL_H_
#define WEFT_CATALOG_GRPC_MESSAGES_INTERNAL_H_

#include <grpcpp/support/status.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "catalog.pb.h"
#include "weft/catalog/event.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// Both ends: a host that vanished without closing its connection is noticed
// after about the sum of the two.
inline constexpr int kKeepaliveMs = 10'000;
inline constexpr int kKeepaliveTimeoutMs = 10'000;
// Both ends: what a stream may send unasked is fixed. Else gRPC would estimate
// it, with a ping of its own, which wakes both ends, for about each small call.
inline constexpr int kEstimateBandwidth = 0;
inline constexpr int kStreamLookaheadBytes = 1 << 20;

namespace wire = ::weft::catalog::v1;

void ToWire(const VersionId& version, wire::VersionId& message);
void ToWire(const VersionRecord& record, wire::VersionRecord& message);
void ToWire(const WorkerInfo& info, wire::WorkerInfo& message);
void ToWire(const WorkerRecord& record, wire::WorkerRecord& message);
void ToWire(const SourceRecord& record, wire::SourceRecord& message);
void ToWire(const LeaseRecord& record, wire::LeaseRecord& message);
void ToWire(const Event& event, wire::Event& message);

// An unknown role becomes one that CheckWorkerInfo refuses, an unknown state
// becomes GONE.
VersionId FromWire(const wire::VersionId& message);
VersionRecord FromWire(const wire::VersionRecord& message);
WorkerInfo FromWire(const wire::WorkerInfo& message);
WorkerRecord FromWire(const wire::WorkerRecord& message);
SourceRecord FromWire(const wire::SourceRecord& message);
LeaseRecord FromWire(const wire::LeaseRecord& message);
// An unknown kind becomes EventKind{0}.
Event FromWire(const wire::Event& message);

// The codes of both are the same numbers. The result is marked as the
// catalog's own answer; the message is cut where HTTP/2 headers end.
grpc::Status ToWireStatus(const absl::Status& status);

// An answer of the catalog comes back as it was. What gRPC itself reports says
// what was done (`doing`: "listing versions") and where: a broken connection
// is kUnavailable.
absl::Status FromWireStatus(const grpc::Status& status, std::string_view doing,
                            const std::string& address);

// kUnavailable, with how to start one.
absl::Status NoCatalogAnswers(const std::string& address);
// Whether a status is of NoCatalogAnswers, and no answer of a catalog.
bool IsUnreachable(const absl::Status& status);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_MESSAGES_INTERNAL_H_
