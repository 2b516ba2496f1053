// The rules of store.h written as plainly as possible: everything that ever
// happened stays in lists that are searched from front to back. It forgets
// nothing, waits for nothing, and tells status codes only. The oracle of the
// random walk.
#ifndef WEFT_CATALOG_TESTING_OBVIOUS_CATALOG_H_
#define WEFT_CATALOG_TESTING_OBVIOUS_CATALOG_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "weft/catalog/store.h"

namespace weft::catalog::testing {

// One model. Workers and leases are called by their index in the lists.
class ObviousCatalog {
 public:
  struct Worker {
    WorkerInfo info;
    enum { kRegistered, kAttached, kDead } life = kRegistered;
    bool dropped = false;  // dead, and forgotten
    VersionId committed;
    std::string fenced_reason;
    std::vector<uint64_t> steps;       // published by it
    std::optional<VersionId> copy_of;  // copies
  };
  struct Version {
    VersionId id;
    VersionState state = VersionState::kStaging;
    std::set<int64_t> ranks;
    int64_t num_ranks = 0;
    int gone_at = 0;  // counts the versions that went before it
  };
  struct Lease {
    size_t worker = 0;
    size_t version = 0;
    enum { kHeld, kRevoked, kReleased } life = kHeld;
  };

  // Adds a worker if OK.
  absl::StatusCode Register(const WorkerInfo& info);
  absl::StatusCode Attach(size_t worker);
  void Die(size_t worker);
  absl::StatusCode Publish(size_t worker, uint64_t step);
  // With a deadline that has passed. `revoked` as the store returns it.
  absl::StatusCode Update(size_t worker, int64_t& revoked);
  // Adds a lease if OK.
  absl::StatusCode Acquire(size_t worker, const VersionId& id);
  absl::StatusCode Release(size_t lease, bool committed,
                           const std::string& fenced_reason);

  const std::vector<Worker>& workers() const { return workers_; }
  const std::vector<Version>& versions() const { return versions_; }
  const std::vector<Lease>& leases() const { return leases_; }
  int64_t LeasesOf(size_t version) const;
  // What GetSources lists, as workers; empty: it must be kNotFound.
  std::vector<size_t> Sources() const;
  // The version that a source holds.
  std::optional<VersionId> HeldBy(size_t worker) const;

 private:
  bool IsCurrent(const Worker& worker) const;
  std::optional<absl::StatusCode> CheckAttached(size_t worker, Role role) const;
  void Withdraw(size_t version);
  int64_t RevokeLeases(size_t version);
  // Versions that the publisher holds, by their index.
  std::vector<size_t> HeldVersions(const Worker& worker) const;
  void WithdrawHeld(const Worker& worker);
  // Whether what this rank has published lies with somebody who lives.
  bool IsHeld(const Version& version, int64_t rank) const;
  void MakeReady(Version& version);
  // Ends what nobody holds whole any more, and what nobody reads any more.
  void Settle();
  absl::StatusCode PublishCopy(Worker& worker, const VersionId& id);

  std::vector<Worker> workers_;
  std::vector<Version> versions_;
  std::vector<Lease> leases_;
  std::string run_id_;  // current
  uint64_t epoch_ = 0;
  size_t entered_at_ = 0;  // the first worker of the current run and epoch
  int gone_ = 0;
};

}  // namespace weft::catalog::testing

#endif  // WEFT_CATALOG_TESTING_OBVIOUS_CATALOG_H_
