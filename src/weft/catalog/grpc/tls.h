// The certificate files of both ends of a catalog's connection, in PEM.
#ifndef WEFT_CATALOG_GRPC_TLS_H_
#define WEFT_CATALOG_GRPC_TLS_H_

#include <string>

#include "absl/status/status.h"

namespace weft::catalog {

// All empty: the server speaks no TLS.
struct ServerTls {
  std::string cert_file{};  // its certificate, then those between it and its CA
  std::string key_file{};   // the private key of cert_file
  // Clients must show a certificate of one of these authorities; empty: none.
  std::string client_ca_file{};
  bool enabled() const {
    return !cert_file.empty() || !key_file.empty() || !client_ca_file.empty();
  }
};

// Without ca_file the client speaks no TLS.
struct ClientTls {
  std::string ca_file{};    // authorities that may vouch for the server
  std::string cert_file{};  // for a server that wants one, with key_file
  std::string key_file{};
  bool enabled() const { return !ca_file.empty(); }
};

// Whether the files can be read and fit: a key that is not that of its
// certificate, or a certificate that has expired, is kInvalidArgument here and
// not a broken connection later. All faults at once.
absl::Status CheckTls(const ServerTls& tls);
absl::Status CheckTls(const ClientTls& tls);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_TLS_H_
