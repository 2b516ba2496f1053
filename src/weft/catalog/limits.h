// What a store accepts. Every CatalogStore checks the same limits with the
// same words, so that a client learns nothing new by changing stores.
#ifndef WEFT_CATALOG_LIMITS_H_
#define WEFT_CATALOG_LIMITS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

inline constexpr int64_t kMaxNameBytes = 128;
inline constexpr int64_t kMaxTextBytes = 4096;
inline constexpr int64_t kMaxRanks = int64_t{1} << 20;
// A placement and a binding travel in one message of at most 256 MiB.
inline constexpr int64_t kMaxMessageBytes = int64_t{256} << 20;
inline constexpr int64_t kMaxPlacementBytes = kMaxMessageBytes - (1 << 16);
inline constexpr int64_t kMaxBindingBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxLabels = 16;
inline constexpr int64_t kMaxLabelBytes = 256;
// That one copy may stand in for. They are kept for each copy.
inline constexpr int64_t kMaxHeldShards = 256;
// Of one catalog, with what has ended and is still listed. Of that, what has
// been without workers longest makes room.
inline constexpr int64_t kMaxWorkers = 100'000;
inline constexpr int64_t kMaxModels = 4096;
inline constexpr int64_t kIdleModelsKept = 1024;  // beside one that comes
// That one worker may hold at a time.
inline constexpr int64_t kMaxLeasesOfWorker = 64;
// From when it was granted or renewed last. Long enough that a lease outlives a
// restart of its catalog; what nobody renews holds up no publisher for long.
inline constexpr std::chrono::seconds kDefaultLeaseDuration(60);

// Printable ASCII of at most kMaxTextBytes; kInvalidArgument with what is
// wrong.
absl::Status CheckText(std::string_view what, std::string_view text);

// `what` of at most `limit_bytes`, else kInvalidArgument.
absl::Status CheckByteCount(std::string_view what, std::string_view bytes,
                            int64_t limit_bytes);

// 64 lower-case hexadecimal digits.
absl::Status CheckDigestHex(std::string_view digest_hex);

// The digest is one, and that of `bytes`, which are not too many.
absl::Status CheckPlacement(const std::string& digest_hex,
                            const std::string& bytes);

absl::Status CheckLabels(const Labels& labels);

// Names, texts, labels, rank in [0, num_ranks), digest: all faults at once.
absl::Status CheckWorkerInfo(const WorkerInfo& info);

// `reason` made fit to be stored and sent: cut to kMaxTextBytes, every byte
// that is not printable ASCII replaced by '?'.
std::string CleanReason(std::string_view reason);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_LIMITS_H_
