#include <unistd.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/manifest/placement.h"
#include "weft/session/membership_internal.h"
#include "weft/topology/host.h"

namespace weft::session {
namespace {

constexpr std::chrono::milliseconds kLookEvery(250);
// A caller may wait for what is done meanwhile.
constexpr std::chrono::seconds kLookTime(5);

}  // namespace

absl::StatusOr<MembershipTerms> TermsOf(
    std::shared_ptr<catalog::CatalogStore> catalog, const std::string& model,
    catalog::Role role, const manifest::Placement& placement,
    const std::string& canonical) {
  WEFT_ASSIGN_OR_RETURN(const topology::HostId host,
                        topology::ReadHostId("/proc"));
  MembershipTerms terms;
  terms.catalog = std::move(catalog);
  terms.blobs = {manifest::PackBytes(canonical)};
  terms.info.model = model;
  terms.info.role = role;
  terms.info.layout_spec = placement.layout_spec;
  terms.info.rank = placement.rank;
  terms.info.num_ranks = placement.num_ranks;
  terms.info.host_id = host.ToString();
  terms.info.process_id = getpid();
  terms.info.placement_digest_hex = manifest::DigestOf(terms.blobs[0]).ToHex();
  return terms;
}

absl::StatusOr<std::unique_ptr<Membership>> Membership::Join(
    MembershipTerms terms, base::Deadline deadline) {
  std::unique_ptr<Membership> joined(new Membership(std::move(terms)));
  WEFT_RETURN_IF_ERROR(joined->Register(deadline));
  // From now on it has been a worker of its run.
  joined->terms_.info.rejoins =
      joined->terms_.info.role == catalog::Role::kPublisher;
  return joined;
}

Membership::~Membership() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    changed_.notify_all();
  }
  if (watcher_.joinable()) watcher_.join();
  if (attachment_ != nullptr) attachment_->EndInOrder();
}

absl::Status Membership::Register(base::Deadline deadline) {
  catalog::CatalogStore& catalog = *terms_.catalog;
  for (const std::string& blob : terms_.blobs) {
    WEFT_RETURN_IF_ERROR(
        catalog.PutPlacement(manifest::DigestOf(blob).ToHex(), blob, deadline));
  }
  const absl::Status entered = Enter(deadline);
  // An attachment that is refused may have been late or replaced: to register
  // once more tells.
  const bool again = terms_.info.rejoins && refused_.ok() &&
                     absl::IsFailedPrecondition(entered);
  return again ? Enter(deadline) : entered;
}

absl::Status Membership::Enter(base::Deadline deadline) {
  catalog::CatalogStore& catalog = *terms_.catalog;
  const absl::StatusOr<catalog::Registration> registration =
      catalog.Register(terms_.info, terms_.binding, deadline);
  if (terms_.info.rejoins &&
      absl::IsFailedPrecondition(registration.status())) {
    refused_ = registration.status();
  }
  WEFT_RETURN_IF_ERROR(registration.status());
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<catalog::Attachment> attachment,
                        catalog.Attach(registration->worker_id, deadline));
  Hold(*registration, std::move(attachment));
  return absl::OkStatus();
}

void Membership::Hold(const catalog::Registration& registration,
                      std::unique_ptr<catalog::Attachment> attachment) {
  registration_ = registration;
  std::shared_ptr<catalog::Attachment> old;  // ends when no lock is held
  const std::lock_guard lock(mutex_);
  old = std::exchange(attachment_, std::move(attachment));
}

std::shared_ptr<catalog::Attachment> Membership::attachment() {
  const std::lock_guard lock(mutex_);
  return attachment_;
}

absl::Status Membership::Health() { return attachment()->Health(); }

bool Membership::IsLost() { return attachment()->IsOver(); }

absl::Status Membership::ComeBack(const absl::Status& failed,
                                  base::Deadline deadline) {
  const bool may_be_lost = absl::IsUnavailable(failed) ||
                           absl::IsFailedPrecondition(failed) ||
                           absl::IsNotFound(failed);
  if (!may_be_lost) return failed;
  // A catalog that does not answer has not said that the place is lost.
  if (absl::IsUnavailable(failed) && !IsLost()) return failed;
  const absl::Status lost = Health();
  return lost.ok() ? failed : TakeAgain(lost, deadline);
}

absl::StatusOr<catalog::Lease> Membership::AcquireLease(
    const catalog::VersionId* version, const catalog::VersionId* newer_than,
    base::Deadline deadline) {
  const auto acquire = [&] {
    return version != nullptr
               ? terms_.catalog->AcquireLease(worker_id(), *version, deadline)
               : terms_.catalog->AcquireNewestLease(worker_id(), newer_than,
                                                    deadline);
  };
  absl::StatusOr<catalog::Lease> lease = acquire();
  if (lease.ok()) return lease;
  WEFT_RETURN_IF_ERROR(ComeBack(lease.status(), deadline));
  return acquire();
}

absl::Status Membership::TakeAgain(const absl::Status& lost,
                                   base::Deadline deadline) {
  if (!refused_.ok()) return refused_;
  // The catalog may hold the worker alive still: then nothing is lost.
  absl::StatusOr<std::unique_ptr<catalog::Attachment>> again =
      terms_.catalog->Reattach(registration_, deadline);
  if (again.ok()) {
    attachment()->Abandon();
    Hold(registration_, *std::move(again));
    return absl::OkStatus();
  }
  if (absl::IsUnavailable(again.status())) return again.status();
  const absl::Status registered = Register(deadline);
  if (!registered.ok()) {
    return absl::Status(
        registered.code(),
        absl::StrCat(std::string(lost.message()), "; it cannot register anew: ",
                     std::string(registered.message())));
  }
  Tell(absl::StrCat("has registered anew as worker ", worker_id(), ": ",
                    std::string(lost.message())));
  if (terms_.on_new_place) terms_.on_new_place(deadline);
  return absl::OkStatus();
}

void Membership::Watch(std::mutex& callers,
                       std::function<void(base::Deadline deadline)> then) {
  watcher_ = std::thread(
      [this, &callers, then = std::move(then)] { Run(callers, then); });
}

void Membership::Run(std::mutex& callers,
                     const std::function<void(base::Deadline deadline)>& then) {
  bool goes_on = true;
  std::unique_lock lock(mutex_);
  while (goes_on &&
         !changed_.wait_for(lock, kLookEvery, [this] { return ends_; })) {
    lock.unlock();
    if (const std::unique_lock calling(callers, std::try_to_lock);
        calling.owns_lock()) {
      goes_on = Look(then);
    }
    lock.lock();
  }
}

// Whether there is a use in looking again.
bool Membership::Look(
    const std::function<void(base::Deadline deadline)>& then) {
  const auto deadline = base::Deadline::After(kLookTime);
  if (IsLost()) {
    const absl::Status lost = Health();
    const absl::Status back = lost.ok() ? lost : TakeAgain(lost, deadline);
    // A catalog that is away may come back, and one that does not know what it
    // was told a moment ago has been started again since.
    if (absl::IsUnavailable(back) || absl::IsDeadlineExceeded(back) ||
        absl::IsNotFound(back)) {
      return true;
    }
    if (!back.ok()) {
      Tell(absl::StrCat("has lost its place: ", std::string(back.message())));
      return false;
    }
  }
  if (then) then(deadline);
  return true;
}

void Membership::Tell(const std::string& what) const {
  const catalog::WorkerInfo& info = terms_.info;
  base::Log(base::LogLevel::kWarning,
            absl::StrCat("model \"", info.model,
                         "\": ", std::string(catalog::ToString(info.role)),
                         " rank ", info.rank, " ", what));
}

}  // namespace weft::session
