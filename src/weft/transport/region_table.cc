#include "weft/transport/region_table.h"

#include <mutex>

#include "absl/strings/str_cat.h"

namespace weft::transport {

RegisteredRegion RegionTable::Add(absl::Span<std::byte> memory,
                                  const memory::Buffer* buffer, int device) {
  const bool shared =
      buffer != nullptr && buffer->kind() == memory::MemoryKind::kShared;
  const std::lock_guard lock(mutex_);
  if (free_slots_.empty()) {
    free_slots_.push_back(slots_.size());
    slots_.emplace_back();
  }
  const uint64_t slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[slot] = {slot, ++last_generation_, memory, shared ? buffer : nullptr,
                  device};
  return slots_[slot];
}

void RegionTable::Remove(const RegisteredRegion& region) {
  const std::lock_guard lock(mutex_);
  slots_[region.slot] = {};
  free_slots_.push_back(region.slot);
}

absl::Status RegionTable::Visit(
    uint64_t slot, uint64_t generation,
    absl::FunctionRef<absl::Status(const RegisteredRegion&)> visit) const {
  const std::shared_lock lock(mutex_);
  // Generation 0 marks a free slot and is in no key that was given out.
  if (slot >= slots_.size() || generation == 0 ||
      slots_[slot].generation != generation) {
    return absl::NotFoundError(
        absl::StrCat("region ", slot, " of generation ", generation,
                     " is not registered, or no longer"));
  }
  return visit(slots_[slot]);
}

}  // namespace weft::transport
