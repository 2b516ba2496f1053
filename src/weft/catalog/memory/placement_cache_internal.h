// Placements by digest, with the number of workers that use each. Not
// thread-safe.
#ifndef WEFT_CATALOG_MEMORY_PLACEMENT_CACHE_INTERNAL_H_
#define WEFT_CATALOG_MEMORY_PLACEMENT_CACHE_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>

namespace weft::catalog {

class PlacementCache {
 public:
  PlacementCache(std::size_t unused_kept, int64_t unused_bytes_kept)
      : unused_kept_(unused_kept), unused_bytes_kept_(unused_bytes_kept) {}

  void Put(const std::string& digest_hex,
           std::shared_ptr<const std::string> bytes);
  // nullptr if it is not there.
  std::shared_ptr<const std::string> Get(const std::string& digest_hex) const;
  // One worker more, or fewer, uses it. AddUser is false if it is not there.
  bool AddUser(const std::string& digest_hex);
  void RemoveUser(const std::string& digest_hex);

 private:
  struct Entry {
    std::shared_ptr<const std::string> bytes;
    int64_t users = 0;
    std::list<std::string>::iterator unused;  // valid while users == 0
  };
  void AddUnused(const std::string& digest_hex, Entry& entry);
  void RemoveUnused(Entry& entry);

  const std::size_t unused_kept_;
  const int64_t unused_bytes_kept_;
  std::map<std::string, Entry> entries_;
  std::list<std::string> unused_;  // digests, the oldest first
  int64_t unused_bytes_ = 0;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MEMORY_PLACEMENT_CACHE_INTERNAL_H_
