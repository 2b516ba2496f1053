#include "weft/catalog/listen_address.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

// -1 if the address has no port between 0 and 65535.
int PortOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return -1;
  }
  return port;
}

}  // namespace

absl::StatusOr<std::string> CheckedListenAddress(
    const std::string& listen_address) {
  if (PortOf(listen_address) < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address \"", CleanReason(listen_address),
        "\" is not of the form HOST:PORT with a port between 0 and 65535"));
  }
  return listen_address[0] == ':' ? absl::StrCat("[::]", listen_address)
                                  : listen_address;
}

absl::Status CheckDialAddress(const std::string& address) {
  const bool has_host =
      address.rfind(':') != 0 && address.find('/') == std::string::npos;
  if (has_host && PortOf(address) > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "address \"", CleanReason(address),
      "\" of a catalog is not of the form HOST:PORT with a port between 1 and "
      "65535, as in 127.0.0.1:6470"));
}

absl::Status CannotListen(const std::string& listen_address) {
  return absl::AlreadyExistsError(absl::StrCat(
      "cannot listen on ", listen_address,
      " (is another program there, or is it no address of this host)"));
}

}  // namespace weft::catalog
