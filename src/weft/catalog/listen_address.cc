#include "weft/catalog/listen_address.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {

absl::StatusOr<std::string> CheckedListenAddress(
    const std::string& listen_address) {
  const size_t colon = listen_address.rfind(':');
  int port = -1;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(listen_address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address \"", CleanReason(listen_address),
        "\" is not of the form HOST:PORT with a port between 0 and 65535"));
  }
  return colon == 0 ? absl::StrCat("[::]", listen_address) : listen_address;
}

absl::Status CannotListen(const std::string& listen_address) {
  return absl::AlreadyExistsError(absl::StrCat(
      "cannot listen on ", listen_address,
      " (is another program there, or is it no address of this host)"));
}

}  // namespace weft::catalog
