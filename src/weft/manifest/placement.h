// Placement: the address-free part of what one rank holds. Two ranks with the
// same placement have the same layout digest, and a plan is cached under the
// digests of its two sides.
#ifndef WEFT_MANIFEST_PLACEMENT_H_
#define WEFT_MANIFEST_PLACEMENT_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/scaled_tensor.h"
#include "weft/layout/stored_tensor.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::manifest {

struct Placement {
  // As the user spelled it, canonical: "megatron:tp=2,pp=4".
  std::string layout_spec;
  int64_t rank = 0;
  int64_t num_ranks = 1;  // ranks of the mesh, all of which must publish
  // Logical tensors that the fragments refer to, by index; names unique.
  std::vector<tensor::TensorSpec> tensors;
  std::vector<layout::StoredTensor> stored;
  // By ascending `tensor`.
  std::vector<layout::ScaledTensor> scaled = {};
  friend bool operator==(const Placement&, const Placement&) = default;
};

// SHA-256 of canonical bytes.
struct LayoutDigest {
  std::array<uint8_t, 32> bytes{};
  std::string ToHex() const;
  friend auto operator<=>(const LayoutDigest&, const LayoutDigest&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const LayoutDigest& digest) {
    return H::combine(std::move(h), digest.bytes);
  }
};

// SHA-256 of any bytes (of a placement's canonical bytes: its layout digest).
LayoutDigest DigestOf(std::string_view bytes);

// Combines digests in order (the digest of a set of source placements).
LayoutDigest CombineDigests(const std::vector<LayoutDigest>& digests);

// Checks that a placement is meaningful by itself: unique names, fragments
// that refer to existing tensors and fit their stored tensor, no overlap,
// dtypes equal, convertible or quantised by `scaled`. `is_target`: no holes
// either (layout::CheckTiling). All faults at once, kInvalidArgument.
absl::Status CheckPlacement(const Placement& placement, bool is_target);

// Canonical bytes, format version 2 (docs/formats/manifest.md). Deterministic:
// equal placements give equal bytes.
std::string EncodePlacement(const Placement& placement);

// Inverse. kDataLoss on malformed bytes, kUnimplemented on another format
// version; never crashes or allocates more than the input justifies.
absl::StatusOr<Placement> DecodePlacement(std::string_view bytes);

}  // namespace weft::manifest

#endif  // WEFT_MANIFEST_PLACEMENT_H_
