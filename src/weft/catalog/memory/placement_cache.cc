#include <utility>

#include "weft/catalog/memory/placement_cache_internal.h"

namespace weft::catalog {

void PlacementCache::Put(const std::string& digest_hex,
                         std::shared_ptr<const std::string> bytes) {
  const auto [found, is_new] = entries_.try_emplace(digest_hex);
  Entry& entry = found->second;
  if (entry.users > 0) return;
  if (is_new) {
    entry.bytes = std::move(bytes);
  } else {
    RemoveUnused(entry);
  }
  AddUnused(digest_hex, entry);
}

std::shared_ptr<const std::string> PlacementCache::Get(
    const std::string& digest_hex) const {
  const auto found = entries_.find(digest_hex);
  return found == entries_.end() ? nullptr : found->second.bytes;
}

bool PlacementCache::AddUser(const std::string& digest_hex) {
  const auto found = entries_.find(digest_hex);
  if (found == entries_.end()) return false;
  if (found->second.users == 0) RemoveUnused(found->second);
  ++found->second.users;
  return true;
}

void PlacementCache::RemoveUser(const std::string& digest_hex) {
  const auto found = entries_.find(digest_hex);
  if (found == entries_.end() || --found->second.users > 0) return;
  AddUnused(digest_hex, found->second);
}

void PlacementCache::RemoveUnused(Entry& entry) {
  unused_.erase(entry.unused);
  unused_bytes_ -= static_cast<int64_t>(entry.bytes->size());
}

void PlacementCache::AddUnused(const std::string& digest_hex, Entry& entry) {
  entry.unused = unused_.insert(unused_.end(), digest_hex);
  unused_bytes_ += static_cast<int64_t>(entry.bytes->size());
  // The newest stays: its worker is about to register.
  while (unused_.size() > 1 && (unused_.size() > unused_kept_ ||
                                unused_bytes_ > unused_bytes_kept_)) {
    const auto oldest = entries_.find(unused_.front());
    RemoveUnused(oldest->second);
    entries_.erase(oldest);
  }
}

}  // namespace weft::catalog
