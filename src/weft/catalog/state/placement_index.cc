#include "weft/catalog/state/placement_index.h"

namespace weft::catalog {

bool PlacementIndex::Put(const Placement& placement) {
  const auto [found, is_new] = entries_.try_emplace(placement.digest_hex);
  Entry& entry = found->second;
  if (entry.users > 0) return false;
  if (is_new) {
    entry.placement = placement;
  } else {
    RemoveUnused(entry);
  }
  AddUnused(placement.digest_hex, entry);
  return is_new;
}

const PlacementIndex::Placement* PlacementIndex::Find(
    const std::string& digest_hex) const {
  const auto found = entries_.find(digest_hex);
  return found == entries_.end() ? nullptr : &found->second.placement;
}

bool PlacementIndex::AddUser(const std::string& digest_hex) {
  const auto found = entries_.find(digest_hex);
  if (found == entries_.end()) return false;
  if (found->second.users == 0) RemoveUnused(found->second);
  ++found->second.users;
  return true;
}

void PlacementIndex::RemoveUser(const std::string& digest_hex) {
  const auto found = entries_.find(digest_hex);
  if (found == entries_.end() || --found->second.users > 0) return;
  AddUnused(digest_hex, found->second);
}

std::vector<PlacementIndex::Placement> PlacementIndex::List() const {
  std::vector<Placement> list;
  list.reserve(entries_.size());
  for (const auto& [digest, entry] : entries_) {
    if (entry.users > 0) list.push_back(entry.placement);
  }
  for (const std::string& digest : unused_) {
    list.push_back(entries_.at(digest).placement);
  }
  return list;
}

bool PlacementIndex::Restore(const Placement& placement, int64_t users) {
  const auto [found, is_new] = entries_.try_emplace(placement.digest_hex);
  if (!is_new) return false;
  found->second.placement = placement;
  found->second.users = users;
  if (users == 0) AddUnused(placement.digest_hex, found->second);
  return true;
}

void PlacementIndex::RemoveUnused(Entry& entry) {
  unused_.erase(entry.unused);
  unused_bytes_ -= entry.placement.byte_count;
}

void PlacementIndex::AddUnused(const std::string& digest_hex, Entry& entry) {
  entry.unused = unused_.insert(unused_.end(), digest_hex);
  unused_bytes_ += entry.placement.byte_count;
  // The newest stays: its worker is about to register.
  while (unused_.size() > 1 && (unused_.size() > unused_kept_ ||
                                unused_bytes_ > unused_bytes_kept_)) {
    const auto oldest = entries_.find(unused_.front());
    RemoveUnused(oldest->second);
    dropped_.push_back(std::move(oldest->second.placement));
    entries_.erase(oldest);
  }
}

}  // namespace weft::catalog
