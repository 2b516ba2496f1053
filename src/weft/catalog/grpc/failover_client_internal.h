// A client of several servers of one catalog, or of one that comes back.
#ifndef WEFT_CATALOG_GRPC_FAILOVER_CLIENT_INTERNAL_H_
#define WEFT_CATALOG_GRPC_FAILOVER_CLIENT_INTERNAL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "weft/catalog/grpc/client_streams_internal.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// `addresses`: "HOST:PORT,HOST:PORT".
absl::StatusOr<std::unique_ptr<CatalogStore>> MakeFailoverClient(
    const std::string& addresses, GrpcClientOptions options, const Door& door);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_FAILOVER_CLIENT_INTERNAL_H_
