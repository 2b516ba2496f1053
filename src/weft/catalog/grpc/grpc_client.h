// A CatalogStore that is somewhere else: the client of CatalogServer.
#ifndef WEFT_CATALOG_GRPC_GRPC_CLIENT_H_
#define WEFT_CATALOG_GRPC_GRPC_CLIENT_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

struct GrpcClientOptions {
  // How long MakeGrpcClient tries; a refused connection ends it at once.
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(5);
};

// Connects to "HOST:PORT". kUnavailable "no catalog answers at HOST:PORT ..."
// if nothing is there. One connection for all calls, watches and attachments.
//
// Beyond store.h: a call on a broken connection fails at once with
// kUnavailable, and the client connects again by itself, but attachments and
// watches that broke stay so. An Attachment's destructor tells the catalog and
// waits for its answer, 5 s at most; Health asks the catalog, 5 s at most.
// Watches and attachments may outlive the client; none of them may be
// destroyed by a wake function.
absl::StatusOr<std::unique_ptr<CatalogStore>> MakeGrpcClient(
    const std::string& address, const GrpcClientOptions& options = {});

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_GRPC_CLIENT_H_
