// A CatalogStore that is somewhere else: the client of CatalogServer.
#ifndef WEFT_CATALOG_GRPC_GRPC_CLIENT_H_
#define WEFT_CATALOG_GRPC_GRPC_CLIENT_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "weft/catalog/grpc/client_access.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

struct GrpcClientOptions {
  // How long MakeGrpcClient tries; a refused connection ends it at once.
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(5);
  // How long a call tries again when its catalog goes away; kUnavailable then.
  // 0: not at all, but 10 s with several addresses.
  std::chrono::nanoseconds reconnect_within{0};
  // Certificate files are read at each connection, so that they may change.
  ClientAccess access{};
};

// Connects to "HOST:PORT", or to the first of "A,B,..." that answers; these
// are servers of one catalog on a store that they share. kUnavailable "no
// catalog answers at HOST:PORT ..." if nothing is there. One connection for all
// calls, watches and attachments. kFailedPrecondition if one side wants TLS and
// the other does not, kUnauthenticated if one refuses the other's certificate,
// kInvalidArgument for files and tokens that are none.
//
// Beyond store.h: a call on a broken connection fails at once with
// kUnavailable, and the client connects again by itself, but attachments and
// watches that broke stay so. With reconnect_within attachments and watches
// go on through the same or another address: a worker that the catalog still
// knows attaches again, and a watch begins again with all that exists. A call
// that was under way is asked again; a Register or a lease that was granted
// but not answered is left to time out. An Attachment's destructor tells the
// catalog and waits for its answer, 5 s at most; Health asks the catalog, 5 s
// at most. Watches and attachments may outlive the client; none of them may be
// destroyed by a wake function.
absl::StatusOr<std::unique_ptr<CatalogStore>> MakeGrpcClient(
    const std::string& address, const GrpcClientOptions& options = {});

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_GRPC_CLIENT_H_
