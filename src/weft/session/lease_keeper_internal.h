// Keeps a lease in force while its holder works, however long that takes.
#ifndef WEFT_SESSION_LEASE_KEEPER_INTERNAL_H_
#define WEFT_SESSION_LEASE_KEEPER_INTERNAL_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "weft/catalog/store.h"

namespace weft::session {

// Renews from a thread of its own, three times within what the lease lasts, as
// long as it lives. A lease that the catalog has revoked or forgotten is left
// alone: its holder hears of it when it commits.
class LeaseKeeper {
 public:
  // `store` outlives it.
  LeaseKeeper(catalog::CatalogStore& store, const catalog::Lease& lease);
  // Waits for a renewal that is under way, some seconds at most.
  ~LeaseKeeper();
  LeaseKeeper(const LeaseKeeper&) = delete;
  LeaseKeeper& operator=(const LeaseKeeper&) = delete;

 private:
  void Run();

  catalog::CatalogStore& store_;
  const std::string lease_id_;
  const std::chrono::nanoseconds pause_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_LEASE_KEEPER_INTERNAL_H_
