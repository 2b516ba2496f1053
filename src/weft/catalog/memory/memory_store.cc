#include "weft/catalog/memory/memory_store.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"
#include "weft/catalog/state/event_log.h"
#include "weft/catalog/state/version_watches.h"
#include "weft/catalog/version_queue.h"

namespace weft::catalog {
namespace {

using Clock = base::Deadline::Clock;

constexpr char kServer[] = "this";

int64_t UnixNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

StateOptions ToStateOptions(const MemoryStoreOptions& options) {
  return {.lease_duration = options.lease_duration,
          .attach_within = options.attach_within,
          .first_number = options.first_number,
          .dead_workers_kept = options.dead_workers_kept,
          .unused_placements_kept = options.unused_placements_kept,
          .unused_placement_bytes_kept = options.unused_placement_bytes_kept};
}

// The state, its lock and its watches. Shared by the store, its watches and
// its attachments, which may outlive the store.
class Core {
 public:
  explicit Core(const MemoryStoreOptions& options)
      : options_(options), state_(ToStateOptions(options)) {}

  // Holds the lock; brings the state up to the time on entry. On exit it hands
  // the changes to the watches, lets the lock go, and then wakes who waits.
  class Transaction {
   public:
    explicit Transaction(Core& core)
        : core_(core), now_(core.options_.now()), lock_(core.mutex_) {
      core_.state_.SetEventTime(UnixNanoseconds());
      core_.state_.Expire(now_);
    }
    ~Transaction() {
      const uint64_t events_before = core_.events_.next();
      const auto to_wake = core_.HandOutChanges();
      const bool has_news = core_.events_.next() != events_before;
      const std::vector<std::string> notes = core_.state_.TakeNotes();
      lock_.unlock();
      core_.changed_.notify_all();
      // Most calls change nothing, and a reader is always there.
      if (has_news) core_.news_.notify_all();
      if (core_.options_.on_note) {
        for (const std::string& note : notes) core_.options_.on_note(note);
      }
      for (const auto& queue : to_wake) queue->Wake();
    }
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;

    CatalogState& state() { return core_.state_; }
    Clock::time_point now() const { return now_; }
    using Bytes = std::shared_ptr<const std::string>;
    void PutBlob(const std::string& digest_hex, Bytes bytes) {
      const PlacementIndex::Placement placement{
          digest_hex, digest_hex, static_cast<int64_t>(bytes->size())};
      if (core_.state_.placements().Put(placement)) {
        core_.blobs_[digest_hex] = std::move(bytes);
      }
    }
    // nullptr if it is not there.
    Bytes GetBlob(const std::string& digest_hex) const {
      const auto found = core_.blobs_.find(digest_hex);
      return found == core_.blobs_.end() ? nullptr : found->second;
    }
    Holder NewHolder() { return {kServer, ++core_.last_token_}; }

   private:
    Core& core_;
    const Clock::time_point now_;
    std::unique_lock<std::mutex> lock_;
  };

  // False when `deadline` passed with the version still leased.
  absl::StatusOr<bool> AwaitRetired(const std::string& worker_id,
                                    const CatalogState::VersionKey& key,
                                    base::Deadline deadline);

  EventPage AwaitEvents(const EventQuery& query);

  std::shared_ptr<VersionQueue> Subscribe(const std::string& model);
  void Unsubscribe(const std::string& model,
                   const std::shared_ptr<VersionQueue>& queue);

  absl::Status Health(const std::string& worker_id, const Holder& holder);
  void Detach(const std::string& worker_id, const Holder& holder,
              bool in_order);

  // Ends what expires while nobody calls; returns after Close.
  void RunExpiries();
  void Close();

 private:
  VersionWatches::Queues HandOutChanges();

  const MemoryStoreOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;  // a transaction has ended
  std::condition_variable news_;     // there are events
  std::condition_variable expiry_;   // something expires sooner, or closed
  CatalogState state_;
  EventLog events_;
  std::map<std::string, std::shared_ptr<const std::string>> blobs_;
  VersionWatches watches_;
  uint64_t last_token_ = 0;
  Clock::time_point expiries_sleep_until_ = Clock::time_point::max();
  bool closed_ = false;
};

VersionWatches::Queues Core::HandOutChanges() {
  for (const auto& dropped : state_.placements().TakeDropped()) {
    blobs_.erase(dropped.digest_hex);
  }
  const auto next = state_.NextExpiry();
  if (next && *next < expiries_sleep_until_) expiry_.notify_all();
  events_.Append(state_.TakeEvents(), state_.event_log_id(),
                 state_.next_event());
  return watches_.Push(state_.TakeChanges());
}

absl::StatusOr<bool> Core::AwaitRetired(const std::string& worker_id,
                                        const CatalogState::VersionKey& key,
                                        base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  absl::StatusOr<bool> retired = false;
  changed_.wait_for(lock, deadline.Remaining(), [&] {
    retired = state_.IsRetired(worker_id, key);
    return !retired.ok() || *retired;
  });
  return retired;
}

EventPage Core::AwaitEvents(const EventQuery& query) {
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, query.wait_until.Remaining(),
                 [&] { return closed_ || events_.HasNews(query); });
  return events_.Read(query);
}

std::shared_ptr<VersionQueue> Core::Subscribe(const std::string& model) {
  { const Transaction expire(*this); }
  const std::lock_guard lock(mutex_);
  return watches_.Subscribe(model, state_.ListVersions(model));
}

void Core::Unsubscribe(const std::string& model,
                       const std::shared_ptr<VersionQueue>& queue) {
  const std::lock_guard lock(mutex_);
  watches_.Unsubscribe(model, queue);
}

absl::Status Core::Health(const std::string& worker_id, const Holder& holder) {
  Transaction transaction(*this);
  if (closed_) return absl::UnavailableError("the catalog store has ended");
  return transaction.state().Health(worker_id, holder);
}

void Core::Detach(const std::string& worker_id, const Holder& holder,
                  bool in_order) {
  Transaction transaction(*this);
  transaction.state().Detach(worker_id, holder, in_order);
}

void Core::RunExpiries() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (closed_) return;
      const auto next = state_.NextExpiry();
      if (!next) {
        expiries_sleep_until_ = Clock::time_point::max();
        expiry_.wait(lock);
      } else if (const auto now = options_.now(); *next > now) {
        expiries_sleep_until_ = *next;
        expiry_.wait_for(lock, *next - now);
      }
    }
    // Its entry ends what has expired, its exit tells the watches.
    const Transaction transaction(*this);
  }
}

void Core::Close() {
  VersionWatches::Queues to_close;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    expiry_.notify_all();
    changed_.notify_all();
    news_.notify_all();
    to_close = watches_.All();
  }
  for (const auto& queue : to_close) {
    queue->Close(absl::UnavailableError("the catalog store has ended"));
    queue->Wake();
  }
}

class MemoryWatch : public VersionWatch {
 public:
  MemoryWatch(std::shared_ptr<Core> core, std::string model)
      : core_(std::move(core)),
        model_(std::move(model)),
        queue_(core_->Subscribe(model_)) {}
  ~MemoryWatch() override {
    core_->Unsubscribe(model_, queue_);
    queue_->SetWake(nullptr);
  }

  absl::StatusOr<VersionRecord> Next(base::Deadline deadline) override {
    return queue_->Next(deadline);
  }
  void Cancel() override { queue_->Cancel(); }
  void SetWake(std::function<void()> wake) override {
    queue_->SetWake(std::move(wake));
  }

 private:
  const std::shared_ptr<Core> core_;
  const std::string model_;
  const std::shared_ptr<VersionQueue> queue_;
};

class MemoryAttachment : public Attachment {
 public:
  MemoryAttachment(std::shared_ptr<Core> core, std::string worker_id,
                   Holder holder)
      : core_(std::move(core)),
        worker_id_(std::move(worker_id)),
        holder_(std::move(holder)) {}
  ~MemoryAttachment() override {
    core_->Detach(worker_id_, holder_, in_order_);
  }

  absl::Status Health() override { return core_->Health(worker_id_, holder_); }
  bool IsOver() override { return !Health().ok(); }
  void EndInOrder() override { in_order_ = true; }

 private:
  const std::shared_ptr<Core> core_;
  const std::string worker_id_;
  const Holder holder_;
  bool in_order_ = false;
};

class MemoryStore : public CatalogStore {
 public:
  explicit MemoryStore(const MemoryStoreOptions& options)
      : core_(std::make_shared<Core>(options)),
        expiries_([core = core_] { core->RunExpiries(); }) {}
  ~MemoryStore() override {
    core_->Close();
    expiries_.join();
  }

  absl::Status PutPlacement(const std::string& digest_hex,
                            const std::string& bytes,
                            base::Deadline deadline) override;
  absl::StatusOr<std::string> GetPlacement(const std::string& digest_hex,
                                           base::Deadline deadline) override;
  absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                        const std::string& binding,
                                        base::Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration& worker, base::Deadline deadline) override;
  absl::StatusOr<VersionRecord> PublishShard(const std::string& worker_id,
                                             uint64_t step,
                                             base::Deadline deadline) override;
  absl::StatusOr<VersionRecord> RepublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override;
  absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                      base::Deadline revoke_after) override;
  absl::StatusOr<std::unique_ptr<VersionWatch>> WatchVersions(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       const std::string& lease_id,
                                       base::Deadline deadline) override;
  absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                     const VersionId& version,
                                     base::Deadline deadline) override;
  absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                           const VersionId* newer_than,
                                           base::Deadline deadline) override;
  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline deadline) override;
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline deadline) override;
  absl::Status ReportServing(const std::string& worker_id,
                             const VersionId* committed,
                             const std::string& fenced_reason,
                             base::Deadline deadline) override;
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<std::vector<LeaseRecord>> ListLeases(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<EventPage> ReadEvents(const EventQuery& query,
                                       base::Deadline deadline) override;

 private:
  const std::shared_ptr<Core> core_;
  std::thread expiries_;
};

absl::Status MemoryStore::PutPlacement(const std::string& digest_hex,
                                       const std::string& bytes,
                                       base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("putting a placement"));
  WEFT_RETURN_IF_ERROR(CheckPlacement(digest_hex, bytes));
  auto shared = std::make_shared<const std::string>(bytes);
  Core::Transaction transaction(*core_);
  transaction.PutBlob(digest_hex, std::move(shared));
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryStore::GetPlacement(
    const std::string& digest_hex, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("getting a placement"));
  WEFT_RETURN_IF_ERROR(CheckDigestHex(digest_hex));
  std::shared_ptr<const std::string> bytes;
  {
    Core::Transaction transaction(*core_);
    bytes = transaction.GetBlob(digest_hex);
  }
  if (bytes == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("placement ", digest_hex, " is not known"));
  }
  return *bytes;
}

absl::StatusOr<Registration> MemoryStore::Register(const WorkerInfo& info,
                                                   const std::string& binding,
                                                   base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("registering a worker"));
  WEFT_RETURN_IF_ERROR(CheckWorkerInfo(info));
  WEFT_RETURN_IF_ERROR(CheckByteCount("binding", binding, kMaxBindingBytes));
  Core::Transaction transaction(*core_);
  return transaction.state().Register(info, binding, transaction.now());
}

absl::StatusOr<std::unique_ptr<Attachment>> MemoryStore::Attach(
    const std::string& worker_id, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("attaching a worker"));
  Holder holder;
  {
    Core::Transaction transaction(*core_);
    holder = transaction.NewHolder();
    WEFT_RETURN_IF_ERROR(transaction.state().Attach(worker_id, holder));
  }
  return std::make_unique<MemoryAttachment>(core_, worker_id, holder);
}

absl::StatusOr<std::unique_ptr<Attachment>> MemoryStore::Reattach(
    const Registration& worker, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("attaching a worker again"));
  Holder holder;
  {
    Core::Transaction transaction(*core_);
    holder = transaction.NewHolder();
    WEFT_RETURN_IF_ERROR(
        transaction.state().Reattach(worker, holder, /*only_orphan=*/false));
  }
  return std::make_unique<MemoryAttachment>(core_, worker.worker_id, holder);
}

absl::StatusOr<VersionRecord> MemoryStore::PublishShard(
    const std::string& worker_id, uint64_t step, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("publishing a shard"));
  Core::Transaction transaction(*core_);
  return transaction.state().PublishShard(worker_id, step);
}

absl::StatusOr<VersionRecord> MemoryStore::RepublishShard(
    const std::string& worker_id, uint64_t step, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("publishing a shard"));
  Core::Transaction transaction(*core_);
  return transaction.state().RepublishShard(worker_id, step);
}

absl::StatusOr<int64_t> MemoryStore::BeginUpdate(const std::string& worker_id,
                                                 base::Deadline revoke_after) {
  std::optional<CatalogState::VersionKey> key;
  {
    Core::Transaction transaction(*core_);
    WEFT_ASSIGN_OR_RETURN(key, transaction.state().Retire(worker_id));
  }
  if (!key) return 0;
  WEFT_ASSIGN_OR_RETURN(const bool retired,
                        core_->AwaitRetired(worker_id, *key, revoke_after));
  if (retired) return 0;
  Core::Transaction transaction(*core_);
  return transaction.state().RevokeAndWithdraw(*key);
}

absl::StatusOr<std::unique_ptr<VersionWatch>> MemoryStore::WatchVersions(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("starting a version watch"));
  WEFT_RETURN_IF_ERROR(CheckName("model", model));
  return std::make_unique<MemoryWatch>(core_, model);
}

absl::StatusOr<SourceSet> MemoryStore::GetSources(const std::string& model,
                                                  const std::string& lease_id,
                                                  base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("getting sources"));
  WEFT_RETURN_IF_ERROR(CheckName("model", model));
  Core::Transaction transaction(*core_);
  return transaction.state().GetSources(model, lease_id);
}

absl::StatusOr<Lease> MemoryStore::AcquireLease(const std::string& worker_id,
                                                const VersionId& version,
                                                base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("acquiring a lease"));
  WEFT_RETURN_IF_ERROR(CheckName("run id", version.run_id));
  Core::Transaction transaction(*core_);
  return transaction.state().AcquireLease(worker_id, version,
                                          transaction.now());
}

absl::StatusOr<Lease> MemoryStore::AcquireNewestLease(
    const std::string& worker_id, const VersionId* newer_than,
    base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("acquiring a lease"));
  if (newer_than != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckName("run id", newer_than->run_id));
  }
  Core::Transaction transaction(*core_);
  return transaction.state().AcquireNewestLease(worker_id, newer_than,
                                                transaction.now());
}

absl::Status MemoryStore::RenewLease(const std::string& lease_id,
                                     base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("renewing a lease"));
  Core::Transaction transaction(*core_);
  return transaction.state().RenewLease(lease_id, transaction.now());
}

absl::Status MemoryStore::ReleaseLease(const std::string& lease_id,
                                       bool committed,
                                       const std::string& fenced_reason,
                                       base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("releasing a lease"));
  Core::Transaction transaction(*core_);
  return transaction.state().ReleaseLease(lease_id, committed, fenced_reason);
}

absl::Status MemoryStore::ReportServing(const std::string& worker_id,
                                        const VersionId* committed,
                                        const std::string& fenced_reason,
                                        base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("reporting what is served"));
  if (committed != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckName("run id", committed->run_id));
  }
  Core::Transaction transaction(*core_);
  return transaction.state().ReportServing(worker_id, committed, fenced_reason);
}

absl::StatusOr<std::vector<VersionRecord>> MemoryStore::ListVersions(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("listing versions"));
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  Core::Transaction transaction(*core_);
  return transaction.state().ListVersions(model);
}

absl::StatusOr<std::vector<WorkerRecord>> MemoryStore::ListWorkers(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("listing workers"));
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  Core::Transaction transaction(*core_);
  return transaction.state().ListWorkers(model);
}

absl::StatusOr<std::vector<LeaseRecord>> MemoryStore::ListLeases(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("listing leases"));
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  Core::Transaction transaction(*core_);
  return transaction.state().ListLeases(model, transaction.now());
}

absl::StatusOr<EventPage> MemoryStore::ReadEvents(const EventQuery& query,
                                                  base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("reading events"));
  if (!query.model.empty()) {
    WEFT_RETURN_IF_ERROR(CheckName("model", query.model));
  }
  { const Core::Transaction expire(*core_); }
  return core_->AwaitEvents(query);
}

}  // namespace

std::unique_ptr<CatalogStore> MakeMemoryStore(
    const MemoryStoreOptions& options) {
  return std::make_unique<MemoryStore>(options);
}

}  // namespace weft::catalog
