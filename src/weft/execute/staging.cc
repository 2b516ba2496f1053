#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/staging_internal.h"

namespace weft::execute {

absl::StatusOr<Staging> Staging::Make(
    int64_t bytes, absl::Span<transport::Transport* const> transports) {
  Staging staging;
  // Memory that a transport can only register inside a shared buffer.
  const bool shared = std::any_of(
      transports.begin(), transports.end(), [](transport::Transport* t) {
        return t != nullptr && !t->capabilities().foreign_memory;
      });
  WEFT_ASSIGN_OR_RETURN(
      staging.buffer_,
      memory::Buffer::Allocate(
          shared ? memory::MemoryKind::kShared : memory::MemoryKind::kHost,
          bytes));
  for (transport::Transport* transport : transports) {
    if (transport == nullptr || staging.RegionFor(transport) != nullptr) {
      continue;
    }
    WEFT_ASSIGN_OR_RETURN(
        auto region,
        transport->Register(staging.buffer_->span(), staging.buffer_.get()));
    staging.registrations_.push_back({transport, std::move(region)});
  }
  staging.Reset();
  return staging;
}

std::optional<int64_t> Staging::Take(int64_t bytes) {
  const int64_t slot = base::AlignUp(bytes, kSlotAlignBytes);
  for (auto hole = free_.begin(); hole != free_.end(); ++hole) {
    if (hole->second < slot) continue;
    const auto [offset, size] = *hole;
    free_.erase(hole);
    if (size > slot) free_.emplace(offset + slot, size - slot);
    used_bytes_ += slot;
    peak_bytes_ = std::max(peak_bytes_, used_bytes_);
    return offset;
  }
  return std::nullopt;
}

void Staging::GiveBack(int64_t offset_bytes, int64_t bytes) {
  int64_t slot = base::AlignUp(bytes, kSlotAlignBytes);
  used_bytes_ -= slot;
  auto next = free_.upper_bound(offset_bytes);
  if (next != free_.end() && offset_bytes + slot == next->first) {
    slot += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == offset_bytes) {
      previous->second += slot;
      return;
    }
  }
  free_.emplace(offset_bytes, slot);
}

void Staging::Reset() {
  free_.clear();
  used_bytes_ = 0;
  peak_bytes_ = 0;
  if (buffer_ == nullptr) return;
  const int64_t bytes =
      buffer_->size_bytes() / kSlotAlignBytes * kSlotAlignBytes;
  free_.emplace(0, bytes);
}

const transport::Region* Staging::RegionFor(
    const transport::Transport* transport) const {
  for (const Registration& registration : registrations_) {
    if (registration.transport == transport) return registration.region.get();
  }
  return nullptr;
}

void Staging::Abandon() {
  // Kept reachable: it is not forgotten, only never safe to free.
  static absl::Mutex mutex(absl::kConstInit);
  static auto* const abandoned = new std::vector<Staging>;
  const absl::MutexLock lock(&mutex);
  abandoned->push_back(std::move(*this));
}

}  // namespace weft::execute
