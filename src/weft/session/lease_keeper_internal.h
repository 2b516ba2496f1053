// Keeps a lease in force while its holder works, however long that takes, and
// gives it back, also when the catalog cannot be reached at once.
#ifndef WEFT_SESSION_LEASE_KEEPER_INTERNAL_H_
#define WEFT_SESSION_LEASE_KEEPER_INTERNAL_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "weft/catalog/store.h"

namespace weft::session {

// Renews from a thread of its own, three times within what the lease lasts. The
// thread outlives the lease: most refits end before it has anything to do, and
// then they neither start nor wake one. A lease that the catalog has revoked or
// forgotten is left alone: its holder hears of it when it commits.
//
// A lease that could not be given back would hold up the next update of its
// publishers, whose link may be fine, until they revoke it. The same thread
// gives it back when the catalog answers again, as long as the lease may last.
//
// Threads: one caller at a time.
class LeaseKeeper {
 public:
  // `store` outlives it.
  explicit LeaseKeeper(catalog::CatalogStore& store) : store_(store) {}
  // Waits for a renewal that is under way, some seconds at most.
  ~LeaseKeeper();
  LeaseKeeper(const LeaseKeeper&) = delete;
  LeaseKeeper& operator=(const LeaseKeeper&) = delete;

  // Renews a lease as long as it lives. A renewal that is under way at its end
  // is not waited for: the catalog refuses one of a lease that it has back.
  class Kept {
   public:
    Kept(LeaseKeeper& keeper, const catalog::Lease& lease) : keeper_(keeper) {
      keeper_.Keep(lease);
    }
    ~Kept() { keeper_.Drop(); }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;

   private:
    LeaseKeeper& keeper_;
  };

  // Renews the lease that is kept, if one is, at once, from the thread. May be
  // called from any thread.
  void RenewNow();

  // CatalogStore::ReleaseLease of a lease that is kept no longer. If nobody
  // answered, the lease is given back later: then as not committed, and without
  // the reason for a fence, which may be over by then.
  absl::Status Release(const catalog::Lease& lease, bool committed,
                       const std::string& fenced_reason,
                       base::Deadline deadline);

 private:
  using Clock = std::chrono::steady_clock;
  struct Held {
    std::string lease_id;
    std::chrono::nanoseconds pause{0};  // between renewals
    Clock::time_point due;
  };

  // One that its holder is done with and the catalog has not heard of.
  struct Owed {
    std::string lease_id;
    std::chrono::nanoseconds pause{0};  // between attempts
    Clock::time_point due;
    Clock::time_point expiry;  // at the latest
  };

  void Keep(const catalog::Lease& lease);
  void Drop();
  void Owe(const catalog::Lease& lease);
  // mutex_ is held.
  void WakeBy(Clock::time_point due);
  Clock::time_point NextDue() const;
  void Run();
  // mutex_ is held before and after, not meanwhile.
  void Renew(std::unique_lock<std::mutex>& lock);
  void GiveBack(std::unique_lock<std::mutex>& lock);

  catalog::CatalogStore& store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::optional<Held> held_;
  std::vector<Owed> owed_;
  Clock::time_point wakes_ = Clock::time_point::max();  // the thread, by itself
  std::thread thread_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_LEASE_KEEPER_INTERNAL_H_
