// The staging memory of posted access: one buffer, from which slots are taken
// when a transfer starts and given back when its values have been scattered
// (pull) or have arrived (push). Slots come back in any order, so that a slow
// peer holds up nobody but itself.
#ifndef WEFT_EXECUTE_STAGING_INTERNAL_H_
#define WEFT_EXECUTE_STAGING_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/memory/buffer.h"
#include "weft/transport/transport.h"

namespace weft::execute {

// One thread.
class Staging {
 public:
  Staging() = default;  // no memory

  // Slots are multiples of this, so that casts are aligned.
  static constexpr int64_t kSlotAlignBytes = 64;

  // Allocates `bytes` and registers them with each distinct transport of
  // `transports`; null entries are passed over.
  static absl::StatusOr<Staging> Make(
      int64_t bytes, absl::Span<transport::Transport* const> transports);

  // Offset of a slot that holds `bytes`, the lowest free one (the warmest in
  // the caches); nullopt when there is none now.
  std::optional<int64_t> Take(int64_t bytes);
  void GiveBack(int64_t offset_bytes, int64_t bytes);
  // Everything is free again and the peak is zero.
  void Reset();

  std::byte* at(int64_t offset_bytes) const {
    return buffer_->data() + offset_bytes;
  }
  // The registration for peers of `transport`, or null.
  const transport::Region* RegionFor(
      const transport::Transport* transport) const;
  int64_t peak_bytes() const { return peak_bytes_; }
  int64_t used_bytes() const { return used_bytes_; }
  // Never frees the memory: for operations that may still write into it.
  void Abandon();

 private:
  std::unique_ptr<memory::Buffer> buffer_;
  struct Registration {
    const transport::Transport* transport = nullptr;
    std::unique_ptr<transport::Region> region;
  };
  std::vector<Registration> registrations_;  // before buffer_ they go
  std::map<int64_t, int64_t> free_;          // offset -> bytes
  int64_t used_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_STAGING_INTERNAL_H_
