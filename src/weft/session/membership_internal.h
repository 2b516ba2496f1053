// A worker's place in the catalog, which it takes again when it was lost: with
// a catalog that was started anew, or by a connection that broke while the
// process lived on.
#ifndef WEFT_SESSION_MEMBERSHIP_INTERNAL_H_
#define WEFT_SESSION_MEMBERSHIP_INTERNAL_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/manifest/placement.h"

namespace weft::session {

struct MembershipTerms {
  std::shared_ptr<catalog::CatalogStore> catalog;
  catalog::WorkerInfo info;
  std::string binding;
  // What info's digests name: packed placement, model card.
  std::vector<std::string> blobs;
  // Called when a new place was taken for one that was lost. May be empty.
  std::function<void(base::Deadline deadline)> on_new_place;
};

// Of this process as a rank of `placement`, which `canonical` encodes, without
// what only publishers have.
absl::StatusOr<MembershipTerms> TermsOf(
    std::shared_ptr<catalog::CatalogStore> catalog, const std::string& model,
    catalog::Role role, const manifest::Placement& placement,
    const std::string& canonical);

// Threads: one caller at a time, except Health.
class Membership {
 public:
  // Puts the blobs, registers and attaches.
  static absl::StatusOr<std::unique_ptr<Membership>> Join(
      MembershipTerms terms, base::Deadline deadline);
  // `look` is not called any more when this has returned.
  ~Membership();

  // Another generation than before: the place was taken anew, and what was
  // published or leased by the one before is gone from the catalog.
  const catalog::Registration& registration() const { return registration_; }
  const std::string& worker_id() const { return registration_.worker_id; }

  // Asks the catalog.
  absl::Status Health();

  // A call of this worker has failed. OK if that was because its place was lost
  // and it has one again, so that the call may be made once more; else why it
  // failed. A place that another run or a newer epoch has taken stays lost.
  absl::Status ComeBack(const absl::Status& failed, base::Deadline deadline);

  // A lease on `version`, or on the newest one if nullptr (newer than
  // `newer_than` if that is given), with a place that was taken again if need
  // be.
  absl::StatusOr<catalog::Lease> AcquireLease(
      const catalog::VersionId* version, const catalog::VersionId* newer_than,
      base::Deadline deadline);

  // Looks some times a second, from a thread of its own, whether the place was
  // lost while nobody called, takes it again, and calls `then`, which may be
  // empty. All of it under `callers`, which whoever calls this object holds;
  // while somebody does it looks away. Once.
  void Watch(std::mutex& callers,
             std::function<void(base::Deadline deadline)> then);

 private:
  explicit Membership(MembershipTerms terms) : terms_(std::move(terms)) {}
  // Puts the blobs, then enters.
  absl::Status Register(base::Deadline deadline);
  // Registers and attaches.
  absl::Status Enter(base::Deadline deadline);
  absl::Status TakeAgain(const absl::Status& lost, base::Deadline deadline);
  // One log line.
  void Tell(const std::string& what) const;
  void Hold(const catalog::Registration& registration,
            std::unique_ptr<catalog::Attachment> attachment);
  std::shared_ptr<catalog::Attachment> attachment();
  // Whether it is known here, without asking, that the place is lost.
  bool IsLost();
  void Run(std::mutex& callers,
           const std::function<void(base::Deadline deadline)>& then);
  bool Look(const std::function<void(base::Deadline deadline)>& then);

  MembershipTerms terms_;
  catalog::Registration registration_;
  // Why another run or a newer epoch keeps the place, once the catalog has said
  // so: it may forget that, but whoever was replaced does not come back.
  absl::Status refused_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::shared_ptr<catalog::Attachment> attachment_;
  std::thread watcher_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_MEMBERSHIP_INTERNAL_H_
