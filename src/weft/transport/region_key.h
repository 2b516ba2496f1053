// The bytes that name a registered region, or an endpoint, to a peer. They
// travel through other systems, so they carry a checksum: a leaf never hands
// damaged bytes to a library that trusts them.
#ifndef WEFT_TRANSPORT_REGION_KEY_H_
#define WEFT_TRANSPORT_REGION_KEY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weft::transport {

// A fresh name for an endpoint: one process may live twice under one pid.
uint64_t RandomId();

// Wraps `payload` for the leaf `leaf` ("shm") and the use `what` ("key").
std::string Seal(std::string_view leaf, std::string_view what,
                 std::string_view payload);
// The payload. kInvalidArgument when the bytes are damaged, truncated, or
// sealed by another leaf or for another use.
absl::StatusOr<std::string> Unseal(std::string_view leaf, std::string_view what,
                                   std::string_view sealed);

struct RegionKey {
  uint64_t instance = 0;    // of the endpoint that registered it
  uint64_t slot = 0;        // place in its table
  uint64_t generation = 0;  // never used twice by one endpoint
  int64_t size_bytes = 0;
  bool mappable = false;
  std::string native = {};  // what the leaf adds; may be empty
};

std::string EncodeKey(std::string_view leaf, const RegionKey& key);
absl::StatusOr<RegionKey> DecodeKey(std::string_view leaf,
                                    std::string_view bytes);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_REGION_KEY_H_
