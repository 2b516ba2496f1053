// Credentials made from certificate files, and what was wrong with a
// connection that did not come about.
#ifndef WEFT_CATALOG_GRPC_TLS_INTERNAL_H_
#define WEFT_CATALOG_GRPC_TLS_INTERNAL_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/grpc/tls.h"

namespace weft::catalog {

// Both read the files now. Insecure ones without TLS.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerTls& tls);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>>
MakeChannelCredentials(const ClientTls& tls);

// gRPC does not tell why a connection failed: shakes hands with `address`
// ("HOST:PORT") once more to find out. kFailedPrecondition if one side speaks
// TLS and the other does not, kUnauthenticated if a certificate is refused, and
// kUnavailable if nobody answers or nothing is wrong now.
absl::Status ExplainNoConnection(const std::string& address,
                                 const ClientTls& tls, base::Deadline deadline);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_TLS_INTERNAL_H_
