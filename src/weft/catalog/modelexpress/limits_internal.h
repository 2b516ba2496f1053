// What the ModelExpress services accept and hold. Everything that a client
// sends is bounded, and so is all of it together.
#ifndef WEFT_CATALOG_MODELEXPRESS_LIMITS_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_LIMITS_INTERNAL_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "weft/base/status.h"

namespace weft::catalog {

// As ModelExpress's own clients and server have it.
inline constexpr int64_t kMxMaxMessageBytes = int64_t{100} << 20;
inline constexpr int64_t kMxMaxNameBytes = 1024;
inline constexpr int64_t kMxMaxIdentityBytes = int64_t{64} << 10;
inline constexpr int64_t kMxMaxTopologyBytes = int64_t{16} << 10;
inline constexpr int64_t kMxMaxTtlSeconds = 24 * 3600;
inline constexpr int64_t kMxMaxSlots = 16'384;

struct ModelExpressLimits {
  int64_t max_sources = 65'536;   // worker ranks that publish
  int64_t max_workers = 65'536;   // registered for refits
  int64_t max_versions = 10'000;  // of all models
  int64_t max_shards = 1 << 20;   // of all versions
  int64_t max_leases = 1 << 20;   // on all versions
  int64_t max_source_bytes = int64_t{1} << 30;
  int64_t max_version_bytes = int64_t{256} << 20;
  int64_t max_reply_bytes = int64_t{64} << 20;
};

// A fault unless `name` has 1 to 1024 bytes, is more than blanks and holds no
// control character.
void CheckMxName(std::string_view what, std::string_view name,
                 base::FaultList& faults);
// The same, but it may be empty.
void CheckMxText(std::string_view what, std::string_view text,
                 base::FaultList& faults);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_LIMITS_INTERNAL_H_
