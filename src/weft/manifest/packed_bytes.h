// Bytes as they go to the catalog: compressed, since a manifest of 70,000
// tensors repeats itself (17 MB become 0.4 MB).
#ifndef WEFT_MANIFEST_PACKED_BYTES_H_
#define WEFT_MANIFEST_PACKED_BYTES_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weft::manifest {

// A header with the size, and one Zstandard frame (docs/formats/manifest.md).
std::string PackBytes(std::string_view bytes);

// Inverse. kDataLoss on malformed bytes; kResourceExhausted on more than
// kMaxUnpackedBytes, before memory is taken.
absl::StatusOr<std::string> UnpackBytes(std::string_view packed);

inline constexpr size_t kMaxUnpackedBytes = size_t{1} << 30;

}  // namespace weft::manifest

#endif  // WEFT_MANIFEST_PACKED_BYTES_H_
