// The server's two streams, as gRPC callback reactors.
#ifndef WEFT_CATALOG_GRPC_CATALOG_STREAMS_INTERNAL_H_
#define WEFT_CATALOG_GRPC_CATALOG_STREAMS_INTERNAL_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "catalog.grpc.pb.h"
#include "weft/catalog/grpc/catalog_service_internal.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// Sends the one response, then stays open until the client goes away, and
// calls service.DetachWorker then. `attached` not OK: ends at once with it.
grpc::ServerWriteReactor<v1::AttachResponse>* StartAttachStream(
    CatalogService& service, const std::string& worker_id,
    absl::StatusOr<std::shared_ptr<CatalogService::Attached>> attached);

// Sends the watch's records in batches until the client goes away or the
// watch ends. Not OK: ends at once with that. `kept` lives as long as the
// stream.
grpc::ServerWriteReactor<v1::WatchVersionsResponse>* StartWatchStream(
    absl::StatusOr<std::unique_ptr<VersionWatch>> watch,
    std::shared_ptr<void> kept);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CATALOG_STREAMS_INTERNAL_H_
