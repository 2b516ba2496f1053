// What a client of a catalog shows of itself and wants of the server.
#ifndef WEFT_CATALOG_GRPC_CLIENT_ACCESS_H_
#define WEFT_CATALOG_GRPC_CLIENT_ACCESS_H_

#include <string>

#include "weft/catalog/grpc/tls.h"

namespace weft::catalog {

struct ClientAccess {
  ClientTls tls{};
  // A bearer token, or the file that holds one and nothing else. The file is
  // read again when it changes. Both empty: none.
  std::string token{};
  std::string token_file{};
  // Whether a token may be sent without TLS, for all on the way to read.
  bool insecure_token = false;
};

// `given`, and what it leaves empty from the environment: WEFT_TLS_CA,
// WEFT_TLS_CERT, WEFT_TLS_KEY, WEFT_TOKEN, WEFT_TOKEN_FILE,
// WEFT_INSECURE_TOKENS=1. A token or a file of one leaves both variables out.
ClientAccess WithEnvironment(ClientAccess given = {});

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CLIENT_ACCESS_H_
