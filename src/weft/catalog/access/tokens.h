// Bearer tokens of a catalog and what each may do (docs/security.md).
#ifndef WEFT_CATALOG_ACCESS_TOKENS_H_
#define WEFT_CATALOG_ACCESS_TOKENS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::catalog {

// A set of roles.
using Roles = uint8_t;
inline constexpr Roles kMayRead = 1;     // list and watch
inline constexpr Roles kMayReceive = 2;  // register as a receiver, lease
inline constexpr Roles kMayPublish = 4;  // register as a publisher, publish
inline constexpr Roles kMayAdmin = 8;    // all of it, and for any worker
std::string RolesText(Roles roles);      // "receive, read"

// 16 to 1024 characters of printable ASCII without spaces.
absl::Status CheckToken(std::string_view token);

struct TokenEntry {
  std::string name;
  Roles roles = 0;
  std::string digest_hex;  // SHA-256 of the token
};

// Immutable.
class TokenTable {
 public:
  // A line each: roles with commas between them, a name, and the token itself
  // or "sha256:" and the SHA-256 of it in hexadecimal digits. Empty lines and
  // those that begin with '#' are passed over. A name may have several tokens,
  // all with the same roles. kInvalidArgument with all faults, which hold no
  // token.
  static absl::StatusOr<TokenTable> Parse(std::string_view text);

  // The entry of a token; nullptr if there is none. Takes as long whichever it
  // is.
  const TokenEntry* Find(std::string_view token) const;
  const std::vector<TokenEntry>& entries() const { return entries_; }

 private:
  std::vector<TokenEntry> entries_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_ACCESS_TOKENS_H_
