// When each of many things falls due.
#ifndef WEFT_CATALOG_MODELEXPRESS_DUE_TIMES_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_DUE_TIMES_INTERNAL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace weft::catalog {

// Not thread-safe. Every call costs the logarithm of the number of keys.
template <typename Key>
class DueTimes {
 public:
  // Sets or moves the time of `key`.
  void Set(const Key& key, int64_t due_ms) {
    Clear(key);
    due_ms_.emplace(key, due_ms);
    order_.emplace(due_ms, key);
  }

  void Clear(const Key& key) {
    const auto found = due_ms_.find(key);
    if (found == due_ms_.end()) return;
    order_.erase({found->second, key});
    due_ms_.erase(found);
  }

  // Takes out the key that fell due first, at `now_ms` or before, and when.
  std::optional<std::pair<Key, int64_t>> PopDue(int64_t now_ms) {
    if (order_.empty() || order_.begin()->first > now_ms) return std::nullopt;
    const auto [due_ms, key] = *order_.begin();
    Clear(key);
    return std::pair(key, due_ms);
  }

 private:
  std::map<Key, int64_t> due_ms_;
  std::set<std::pair<int64_t, Key>> order_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_DUE_TIMES_INTERNAL_H_
