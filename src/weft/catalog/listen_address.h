// Where a server of the catalog listens, and where its clients dial.
#ifndef WEFT_CATALOG_LISTEN_ADDRESS_H_
#define WEFT_CATALOG_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::catalog {

// "HOST:PORT" as gRPC wants it; an empty host is every address of this
// machine. kInvalidArgument if it has another form.
absl::StatusOr<std::string> CheckedListenAddress(
    const std::string& listen_address);

// OK for "HOST:PORT" with a port; else kInvalidArgument: gRPC would take a
// missing port for 443 and knows schemes that nobody listens to.
absl::Status CheckDialAddress(const std::string& address);

// kAlreadyExists, for an address of the right form that could not be bound.
absl::Status CannotListen(const std::string& listen_address);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_LISTEN_ADDRESS_H_
