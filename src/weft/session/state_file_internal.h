// The dirty latch of a receiver on disk, so that an engine that is started
// again knows what its last life left: docs/formats/receiver_state.md.
#ifndef WEFT_SESSION_STATE_FILE_INTERNAL_H_
#define WEFT_SESSION_STATE_FILE_INTERNAL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/catalog/store.h"

namespace weft::session {

struct ReceiverState {
  // Bytes of `version` may have been written, and were not all verified.
  bool dirty = false;
  catalog::VersionId version;
  std::string model;
  std::string layout_digest_hex;  // of the receiver's placement
  uint64_t generation = 0;        // of its registration with the catalog
  int64_t process_id = 0;
  friend bool operator==(const ReceiverState&, const ReceiverState&) = default;
};

// A larger file is none of ours.
inline constexpr int64_t kMaxStateFileBytes = 4096;

std::string EncodeReceiverState(const ReceiverState& state);
// Inverse, of those bytes exactly. kDataLoss for what is no state file,
// kUnimplemented for another format.
absl::StatusOr<ReceiverState> DecodeReceiverState(std::string_view bytes);

// Nothing when there is no such file. Errors name it and say what to do.
absl::StatusOr<std::optional<ReceiverState>> ReadStateFile(
    const std::string& path);
// Returns when the file is on disk, as a whole or as it was before.
absl::Status WriteStateFile(const std::string& path,
                            const ReceiverState& state);

}  // namespace weft::session

#endif  // WEFT_SESSION_STATE_FILE_INTERNAL_H_
