#include "weft/catalog/grpc/client_access.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/access/tokens.h"
#include "weft/catalog/grpc/bearer_internal.h"

namespace weft::catalog {
namespace {

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void FillFrom(const char* name, std::string& value) {
  if (value.empty()) value = FromEnvironment(name);
}

absl::StatusOr<std::string> ParseTokenOnly(std::string_view text) {
  std::string token(text);
  absl::StripAsciiWhitespace(&token);
  WEFT_RETURN_IF_ERROR(CheckToken(token));
  return token;
}

}  // namespace

ClientAccess WithEnvironment(ClientAccess given) {
  FillFrom("WEFT_TLS_CA", given.tls.ca_file);
  if (given.tls.cert_file.empty() && given.tls.key_file.empty()) {
    FillFrom("WEFT_TLS_CERT", given.tls.cert_file);
    FillFrom("WEFT_TLS_KEY", given.tls.key_file);
  }
  if (given.token.empty() && given.token_file.empty()) {
    FillFrom("WEFT_TOKEN", given.token);
    FillFrom("WEFT_TOKEN_FILE", given.token_file);
  }
  given.insecure_token =
      given.insecure_token || FromEnvironment("WEFT_INSECURE_TOKENS") == "1";
  return given;
}

absl::StatusOr<std::shared_ptr<Bearer>> Bearer::Make(
    const ClientAccess& access) {
  std::shared_ptr<Bearer> bearer(new Bearer());
  if (access.token.empty() && access.token_file.empty()) return bearer;
  if (!access.token.empty() && !access.token_file.empty()) {
    return absl::InvalidArgumentError(
        "a token and the file of one are given (WEFT_TOKEN and "
        "WEFT_TOKEN_FILE): which of them?");
  }
  if (!access.tls.enabled() && !access.insecure_token) {
    return absl::InvalidArgumentError(
        "a token without TLS could be read by everyone on the way: give "
        "--tls-ca or WEFT_TLS_CA, or --insecure-tokens or "
        "WEFT_INSECURE_TOKENS=1 if the network is yours");
  }
  if (!access.token.empty()) {
    WEFT_ASSIGN_OR_RETURN(bearer->fixed_, ParseTokenOnly(access.token));
    return bearer;
  }
  WEFT_ASSIGN_OR_RETURN(
      bearer->file_, ChangingFile<std::string>::Open("token", access.token_file,
                                                     ParseTokenOnly, nullptr));
  return bearer;
}

std::string Bearer::Token() {
  return file_ == nullptr ? fixed_ : *file_->Get();
}

}  // namespace weft::catalog
