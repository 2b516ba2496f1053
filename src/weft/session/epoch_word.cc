#include "weft/session/epoch_word.h"

#include <cstring>

#include "weft/manifest/placement.h"

namespace weft::session {
namespace {

// First 8 bytes of SHA-256 over "<purpose> run:epoch:step": the same on every
// machine.
uint64_t HashOf(const char* purpose, const catalog::VersionId& version) {
  const manifest::LayoutDigest digest =
      manifest::DigestOf(purpose + (" " + catalog::ToString(version)));
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | digest.bytes[i];
  return word;
}

}  // namespace

uint64_t EpochWord(const catalog::VersionId& version) {
  return HashOf("epoch", version) & ~uint64_t{1};
}

uint64_t DigestSeed(const catalog::VersionId& version) {
  return HashOf("digest", version);
}

}  // namespace weft::session
