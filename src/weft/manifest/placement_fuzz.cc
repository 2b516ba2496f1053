// libFuzzer target: manifests that come over the wire.
//
// Whatever the bytes, decoding ends in a status or in a value that encodes to
// the very same bytes; the checks that follow a decode must hold up too.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "weft/manifest/binding.h"
#include "weft/manifest/placement.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  if (data[0] % 2 == 0) {
    const auto placement = weft::manifest::DecodePlacement(bytes);
    if (!placement.ok()) return 0;
    (void)weft::manifest::CheckPlacement(*placement, /*is_target=*/true);
    // Modes are coalesced when read, so only the second encoding is canonical.
    const std::string again = weft::manifest::EncodePlacement(*placement);
    const auto twice = weft::manifest::DecodePlacement(again);
    if (!twice.ok() || weft::manifest::EncodePlacement(*twice) != again) {
      std::abort();
    }
  } else {
    const auto binding = weft::manifest::DecodeBinding(bytes);
    if (binding.ok() && weft::manifest::EncodeBinding(*binding) != bytes) {
      std::abort();
    }
  }
  return 0;
}
