// The client's bearer token.
#ifndef WEFT_CATALOG_GRPC_BEARER_INTERNAL_H_
#define WEFT_CATALOG_GRPC_BEARER_INTERNAL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "weft/catalog/access/changing_file.h"
#include "weft/catalog/grpc/client_access.h"

namespace weft::catalog {

// The header that carries it.
inline constexpr char kTokenHeader[] = "authorization";
inline constexpr char kTokenScheme[] = "Bearer ";

// Thread-safe.
class Bearer {
 public:
  // kInvalidArgument if both a token and a file are given, if it is no token,
  // or if it would be sent in the clear.
  static absl::StatusOr<std::shared_ptr<Bearer>> Make(
      const ClientAccess& access);

  // Empty: none. The last one that was good if the file has become bad.
  std::string Token();

 private:
  Bearer() = default;

  std::string fixed_;
  std::unique_ptr<ChangingFile<std::string>> file_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_BEARER_INTERNAL_H_
