// The queues of all watches of a store. Not thread-safe.
#ifndef WEFT_CATALOG_STATE_VERSION_WATCHES_H_
#define WEFT_CATALOG_STATE_VERSION_WATCHES_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "weft/catalog/store.h"
#include "weft/catalog/version_queue.h"

namespace weft::catalog {

class VersionWatches {
 public:
  using Queues = std::vector<std::shared_ptr<VersionQueue>>;

  // A queue that begins with `existing`.
  std::shared_ptr<VersionQueue> Subscribe(
      const std::string& model, const std::vector<VersionRecord>& existing);
  void Unsubscribe(const std::string& model,
                   const std::shared_ptr<VersionQueue>& queue);

  // Hands the changes out. The caller wakes the queues that it gets, with no
  // lock held.
  Queues Push(const std::vector<VersionRecord>& changes);
  Queues All() const;

 private:
  std::map<std::string, Queues> by_model_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_VERSION_WATCHES_H_
