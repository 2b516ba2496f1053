#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "weft/base/status.h"
#include "weft/catalog/event.h"
#include "weft/catalog/grpc/failover_client_internal.h"
#include "weft/catalog/grpc/failover_links_internal.h"
#include "weft/catalog/listen_address.h"

namespace weft::catalog {
namespace {

// How much later than it is due BeginUpdate's answer may be asked for again.
constexpr std::chrono::seconds kLateAnswer(2);

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

class FailoverAttachment : public Attachment {
 public:
  FailoverAttachment(std::shared_ptr<FailoverLinks> links,
                     std::shared_ptr<FailoverLinks::Held> held)
      : links_(std::move(links)), held_(std::move(held)) {}
  ~FailoverAttachment() override { links_->End(held_, in_order_); }
  absl::Status Health() override { return links_->Health(held_); }
  bool IsOver() override { return links_->IsLost(held_); }
  void EndInOrder() override { in_order_ = true; }

 private:
  const std::shared_ptr<FailoverLinks> links_;
  const std::shared_ptr<FailoverLinks::Held> held_;
  bool in_order_ = false;
};

// With a wake function it is the watch of one link, and ends with it: opening
// another one waits, which a wake function must not.
class FailoverWatch : public VersionWatch {
 public:
  FailoverWatch(std::shared_ptr<FailoverLinks> links, std::string model,
                std::shared_ptr<VersionWatch> inner)
      : links_(std::move(links)),
        model_(std::move(model)),
        inner_(std::move(inner)) {}

  absl::StatusOr<VersionRecord> Next(base::Deadline deadline) override;
  // Both call the wake function, which calls Next: with no lock held.
  void Cancel() override {
    std::shared_ptr<VersionWatch> inner;
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      inner = inner_;
    }
    inner->Cancel();
  }
  void SetWake(std::function<void()> wake) override {
    std::shared_ptr<VersionWatch> inner;
    {
      const std::lock_guard lock(mutex_);
      has_wake_ = has_wake_ || wake != nullptr;
      inner = inner_;
    }
    inner->SetWake(std::move(wake));
  }

 private:
  // Whether there is another one to ask.
  bool Reopen(base::Deadline deadline);

  const std::shared_ptr<FailoverLinks> links_;
  const std::string model_;
  std::mutex mutex_;
  bool cancelled_ = false;
  bool has_wake_ = false;
  std::shared_ptr<VersionWatch> inner_;
};

absl::StatusOr<VersionRecord> FailoverWatch::Next(base::Deadline deadline) {
  const base::Deadline give_up = links_->GiveUp(base::Deadline::Infinite());
  while (true) {
    std::shared_ptr<VersionWatch> inner;
    bool may_reopen = false;
    {
      const std::lock_guard lock(mutex_);
      inner = inner_;
      may_reopen = !has_wake_ && !cancelled_;
    }
    absl::StatusOr<VersionRecord> record = inner->Next(deadline);
    if (!absl::IsUnavailable(record.status()) || !may_reopen) return record;
    const bool later = !Reopen(give_up);
    if (later && give_up.Passed()) return record;
    if (later && deadline.Passed()) {
      return absl::DeadlineExceededError(
          "deadline passed while the catalog was away");
    }
    if (later) {
      links_->Pause(deadline.when() < give_up.when() ? deadline : give_up);
    }
  }
}

bool FailoverWatch::Reopen(base::Deadline deadline) {
  const auto link = links_->Get(deadline);
  if (!link.ok()) return false;
  auto opened = link->store->WatchVersions(model_, deadline);
  if (!opened.ok()) {
    if (IsUnreachable(opened.status())) links_->Break(link->life);
    return false;
  }
  std::shared_ptr<VersionWatch> old;  // ends when no lock is held
  const std::lock_guard lock(mutex_);
  old = std::exchange(inner_, *std::move(opened));
  if (cancelled_) inner_->Cancel();
  return true;
}

class FailoverClient : public CatalogStore {
 public:
  explicit FailoverClient(std::shared_ptr<FailoverLinks> links)
      : links_(std::move(links)) {}
  ~FailoverClient() override { links_->Close(); }

  absl::Status PutPlacement(const std::string& digest_hex,
                            const std::string& bytes,
                            base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->PutPlacement(digest_hex, bytes, deadline);
    });
  }
  absl::StatusOr<std::string> GetPlacement(const std::string& digest_hex,
                                           base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->GetPlacement(digest_hex, deadline);
    });
  }
  absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                        const std::string& binding,
                                        base::Deadline deadline) override {
    auto registration = Call(deadline, [&](const Link& link, bool) {
      return link.store->Register(info, binding, deadline);
    });
    if (registration.ok()) links_->Remember(*registration);
    return registration;
  }
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override {
    return AttachBy(links_->Recall(worker_id), /*again=*/false, deadline);
  }
  absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration& worker, base::Deadline deadline) override {
    return AttachBy(worker, /*again=*/true, deadline);
  }
  absl::StatusOr<VersionRecord> PublishShard(const std::string& worker_id,
                                             uint64_t step,
                                             base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool again) {
      return again ? link.store->RepublishShard(worker_id, step, deadline)
                   : link.store->PublishShard(worker_id, step, deadline);
    });
  }
  absl::StatusOr<VersionRecord> RepublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->RepublishShard(worker_id, step, deadline);
    });
  }
  absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                      base::Deadline revoke_after) override {
    // The deadline says when to revoke, not when to give up. But a trainer
    // waits: what is not answered soon after that is not waited for, beyond the
    // time that a catalog has to come back.
    const base::Deadline back = links_->GiveUp(base::Deadline::Infinite());
    const base::Deadline late = base::Deadline::After(
        std::max(revoke_after.Remaining(), back.Remaining()) + kLateAnswer);
    return Call(late, [&](const Link& link, bool) {
      return link.store->BeginUpdate(worker_id, revoke_after);
    });
  }
  absl::StatusOr<std::unique_ptr<VersionWatch>> WatchVersions(
      const std::string& model, base::Deadline deadline) override {
    absl::StatusOr<std::unique_ptr<VersionWatch>> watch =
        Call(deadline, [&](const Link& link, bool) {
          return link.store->WatchVersions(model, deadline);
        });
    if (!watch.ok()) return watch;
    return std::make_unique<FailoverWatch>(links_, model, *std::move(watch));
  }
  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       const std::string& lease_id,
                                       base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->GetSources(model, lease_id, deadline);
    });
  }
  absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                     const VersionId& version,
                                     base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->AcquireLease(worker_id, version, deadline);
    });
  }
  absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                           const VersionId* newer_than,
                                           base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->AcquireNewestLease(worker_id, newer_than, deadline);
    });
  }
  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->RenewLease(lease_id, deadline);
    });
  }
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool again) {
      const absl::Status status = link.store->ReleaseLease(
          lease_id, committed, fenced_reason, deadline);
      // The first time it was done, and the answer was lost: a lease that is
      // revoked stays known, one that is released does not. But a catalog that
      // forgot the workers forgot this too.
      const bool was_done =
          again && absl::IsNotFound(status) && links_->AllAttached();
      return was_done ? absl::OkStatus() : status;
    });
  }
  absl::Status ReportServing(const std::string& worker_id,
                             const VersionId* committed,
                             const std::string& fenced_reason,
                             base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->ReportServing(worker_id, committed, fenced_reason,
                                       deadline);
    });
  }
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->ListVersions(model, deadline);
    });
  }
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(
      const std::string& model, base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->ListWorkers(model, deadline);
    });
  }
  absl::StatusOr<std::vector<LeaseRecord>> ListLeases(
      const std::string& model, base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->ListLeases(model, deadline);
    });
  }
  absl::StatusOr<EventPage> ReadEvents(const EventQuery& query,
                                       base::Deadline deadline) override {
    return Call(deadline, [&](const Link& link, bool) {
      return link.store->ReadEvents(query, deadline);
    });
  }

 private:
  using Link = FailoverLinks::Link;

  // Calls until there is an answer; `again` once one may have been lost.
  template <typename F>
  auto Call(base::Deadline deadline, F call)
      -> decltype(call(std::declval<const Link&>(), false));

  absl::StatusOr<std::unique_ptr<Attachment>> AttachBy(
      const Registration& worker, bool again, base::Deadline deadline);

  const std::shared_ptr<FailoverLinks> links_;
};

template <typename F>
auto FailoverClient::Call(base::Deadline deadline, F call)
    -> decltype(call(std::declval<const Link&>(), false)) {
  std::optional<base::Deadline> give_up;
  bool again = false;
  while (true) {
    const auto link = links_->Get(deadline);
    absl::Status status = link.status();
    if (link.ok()) {
      // A server refuses calls of a worker that is not attached through it.
      const absl::Status attached =
          links_->AwaitAttached(links_->GiveUp(deadline));
      if (!attached.ok() && deadline.Passed()) return attached;
      auto result = call(*link, again);
      status = StatusOf(result);
      if (!absl::IsUnavailable(status)) return result;
      again = true;
      if (IsUnreachable(status)) links_->Break(link->life);
    }
    // The time runs from the first failure: BeginUpdate may wait for long.
    if (!give_up) give_up = links_->GiveUp(deadline);
    if (give_up->Passed()) return status;
    links_->Pause(*give_up);
  }
}

absl::StatusOr<std::unique_ptr<Attachment>> FailoverClient::AttachBy(
    const Registration& worker, bool again, base::Deadline deadline) {
  std::optional<Link> used;
  absl::StatusOr<FailoverLinks::Stream> stream =
      Call(deadline, [&](const Link& link, bool repeated) {
        used = link;
        const bool may_be_attached = repeated && worker.generation != 0;
        return links_->Open(link, worker, again || may_be_attached, deadline);
      });
  if (!stream.ok()) return stream.status();
  return std::make_unique<FailoverAttachment>(
      links_, links_->Hold(worker, *used, *std::move(stream)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CatalogStore>> MakeFailoverClient(
    const std::string& addresses, GrpcClientOptions options, const Door& door) {
  if (options.reconnect_within <= std::chrono::nanoseconds(0)) {
    options.reconnect_within = kReconnectWithin;
  }
  const std::vector<std::string> list =
      absl::StrSplit(addresses, ',', absl::SkipEmpty());
  if (list.empty()) {
    return absl::InvalidArgumentError("no address of a catalog is given");
  }
  for (const std::string& address : list) {
    WEFT_RETURN_IF_ERROR(CheckDialAddress(address));
  }
  auto links = std::make_shared<FailoverLinks>(
      list, door, options.connect_timeout, options.reconnect_within);
  WEFT_RETURN_IF_ERROR(
      links->Get(base::Deadline::After(options.connect_timeout)).status());
  links->Start();
  return std::make_unique<FailoverClient>(std::move(links));
}

}  // namespace weft::catalog
