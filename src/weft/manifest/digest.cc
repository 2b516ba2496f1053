#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "weft/manifest/placement.h"

namespace weft::manifest {

std::string LayoutDigest::ToHex() const {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

LayoutDigest DigestOf(std::string_view bytes) {
  LayoutDigest digest;
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         digest.bytes.data());
  return digest;
}

LayoutDigest CombineDigests(const std::vector<LayoutDigest>& digests) {
  std::string joined;
  joined.reserve(digests.size() * sizeof(LayoutDigest::bytes));
  for (const LayoutDigest& digest : digests) {
    joined.append(reinterpret_cast<const char*>(digest.bytes.data()),
                  digest.bytes.size());
  }
  return DigestOf(joined);
}

}  // namespace weft::manifest
