// Which placements are kept, by digest, with the number of workers that use
// each. The bytes lie elsewhere, at a `place` that the owner names. Not
// thread-safe.
#ifndef WEFT_CATALOG_STATE_PLACEMENT_INDEX_H_
#define WEFT_CATALOG_STATE_PLACEMENT_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace weft::catalog {

class PlacementIndex {
 public:
  struct Placement {
    std::string digest_hex;
    std::string place;
    int64_t byte_count = 0;
  };

  PlacementIndex(std::size_t unused_kept, int64_t unused_bytes_kept)
      : unused_kept_(unused_kept), unused_bytes_kept_(unused_bytes_kept) {}

  // False if the digest is known: it stays where it is, and the bytes at
  // `placement.place` are not needed.
  bool Put(const Placement& placement);
  // nullptr if it is not there.
  const Placement* Find(const std::string& digest_hex) const;
  // One worker more, or fewer, uses it. AddUser is false if it is not there.
  bool AddUser(const std::string& digest_hex);
  void RemoveUser(const std::string& digest_hex);

  // The placements given up since the last call.
  std::vector<Placement> TakeDropped() { return std::move(dropped_); }

  // All of them: those in use by digest, then the others, the oldest first.
  // Restored into an empty index in this order they make it equal.
  std::vector<Placement> List() const;
  // False if the digest is there already.
  bool Restore(const Placement& placement, int64_t users);

 private:
  struct Entry {
    Placement placement;
    int64_t users = 0;
    std::list<std::string>::iterator unused;  // valid while users == 0
  };
  void AddUnused(const std::string& digest_hex, Entry& entry);
  void RemoveUnused(Entry& entry);

  std::size_t unused_kept_;
  int64_t unused_bytes_kept_;
  std::map<std::string, Entry> entries_;
  std::list<std::string> unused_;  // digests, the oldest first
  int64_t unused_bytes_ = 0;
  std::vector<Placement> dropped_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_PLACEMENT_INDEX_H_
