// The rules of store.h as a state machine: no lock, no wait, no clock of its
// own. Every change of a version is put on a list that the owner takes after
// each call (TakeChanges). Equal calls in equal order make equal states, so
// that several processes may each keep one. Not thread-safe.
#ifndef WEFT_CATALOG_STATE_CATALOG_STATE_H_
#define WEFT_CATALOG_STATE_CATALOG_STATE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/byte_codec.h"
#include "weft/base/deadline.h"
#include "weft/catalog/event.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/placement_index.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// The same as in MemoryStoreOptions, but for the clock.
struct StateOptions {
  std::chrono::nanoseconds lease_duration = kDefaultLeaseDuration;
  std::chrono::nanoseconds attach_within = std::chrono::seconds(10);
  uint64_t first_number = 0;
  std::size_t dead_workers_kept = 64;
  std::size_t unused_placements_kept = 1024;
  int64_t unused_placement_bytes_kept = int64_t{512} << 20;
};

// Who keeps a worker alive: one attachment of one server of the catalog.
struct Holder {
  std::string server;  // empty: nobody
  uint64_t token = 0;
  friend bool operator==(const Holder&, const Holder&) = default;
};

class CatalogState {
 public:
  using TimePoint = base::Deadline::Clock::time_point;
  // A version of a model.
  struct VersionKey {
    std::string model;
    VersionId version;
  };

  explicit CatalogState(const StateOptions& options);

  PlacementIndex& placements() { return placements_; }
  const PlacementIndex& placements() const { return placements_; }

  absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                        const std::string& binding,
                                        TimePoint now);
  absl::Status Attach(const std::string& worker_id, const Holder& holder);
  // Empty if the worker is not known.
  Registration FindRegistration(const std::string& worker_id) const;
  // Takes a worker that lives over from whoever holds it; with `only_orphan`
  // only if nobody does.
  absl::Status Reattach(const Registration& worker, const Holder& holder,
                        bool only_orphan);
  // Of one attachment: kUnavailable if the worker lives, but not by it.
  absl::Status Health(const std::string& worker_id, const Holder& holder) const;
  // The attachment has ended, and the worker with it, which has said so itself
  // if `in_order`; nothing happens if the worker is dead or has another holder.
  void Detach(const std::string& worker_id, const Holder& holder,
              bool in_order = false);
  // The holder goes, but the worker may live: it dies if nobody takes it over
  // within attach_within. Nothing happens if it has another holder.
  void Orphan(const std::string& worker_id, const Holder& holder,
              TimePoint now);
  // Orphans all that the server holds.
  void OrphanAllOf(const std::string& server, TimePoint now);

  absl::StatusOr<VersionRecord> PublishShard(const std::string& worker_id,
                                             uint64_t step);
  absl::StatusOr<VersionRecord> RepublishShard(const std::string& worker_id,
                                               uint64_t step);
  // Makes the worker's newest version RETIRING, or GONE if it has no lease.
  // The version to wait for, or nothing.
  absl::StatusOr<std::optional<VersionKey>> Retire(
      const std::string& worker_id);
  // Whether the version is no longer to be had; false if the worker still has
  // to wait. An error if the worker has died or lost its holder meanwhile.
  absl::StatusOr<bool> IsRetired(const std::string& worker_id,
                                 const VersionKey& key) const;
  // Revokes what is left and makes the version GONE. The leases revoked.
  int64_t RevokeAndWithdraw(const VersionKey& key);

  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       const std::string& lease_id) const;
  absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                     const VersionId& version, TimePoint now);
  absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                           const VersionId* newer_than,
                                           TimePoint now);
  absl::Status RenewLease(const std::string& lease_id, TimePoint now);
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason);
  absl::Status ReportServing(const std::string& worker_id,
                             const VersionId* committed,
                             const std::string& fenced_reason);

  std::vector<VersionRecord> ListVersions(const std::string& model) const;
  std::vector<WorkerRecord> ListWorkers(const std::string& model) const;
  std::vector<LeaseRecord> ListLeases(const std::string& model,
                                      TimePoint now) const;

  // Ends leases and registrations whose time has come.
  void Expire(TimePoint now);
  // When Expire has something to do next.
  std::optional<TimePoint> NextExpiry() const;

  // Every change since the last call, in order.
  std::vector<VersionRecord> TakeChanges() { return std::move(changes_); }
  // What a person should know of the calls since the last time, takeovers:
  // a line each.
  std::vector<std::string> TakeNotes() { return std::move(notes_); }

  // The time that events carry from now on, nanoseconds since 1970.
  void SetEventTime(int64_t unix_ns) { event_time_ns_ = unix_ns; }
  // What happened since the last call, in order, numbered from 1.
  std::vector<Event> TakeEvents() { return std::move(events_); }
  // Names this life of the state in its events.
  uint64_t event_log_id() const { return event_log_id_; }
  uint64_t next_event() const { return next_event_; }

  // No number given out from now on is smaller.
  void RaiseNumbers(uint64_t at_least);

  // All of it but changes, notes and events that were not taken; options are
  // not part.
  void Encode(base::ByteWriter& writer) const;
  // Into a new state. Refuses (kDataLoss) what no series of calls can make, as
  // far as later calls depend on it.
  absl::Status Decode(base::ByteReader& reader);

 private:
  enum class Life : uint8_t { kRegistered, kAttached, kDead };
  struct Worker {
    WorkerRecord record;
    std::string binding;
    Life life = Life::kRegistered;
    Holder holder;        // of an attached one; an orphan has none
    TimePoint attach_by;  // for a registered one and an orphan
    std::optional<uint64_t> last_step;  // publishers: published by itself
    std::string death_reason;
    std::set<std::string> lease_ids;
  };
  struct Version {
    VersionRecord record;
    std::set<int64_t> ranks;  // that have published it
    // Of those, whose publisher has died since; with its shard key.
    std::map<int64_t, std::string> lost_ranks;
    std::set<std::string> copies;  // worker ids
    std::set<std::string> lease_ids;

    bool HeldBy(int64_t rank) const {
      return ranks.contains(rank) && !lost_ranks.contains(rank);
    }
  };
  struct RankSlot {
    std::string worker_id;  // registered or attached; empty: none
    std::optional<uint64_t> last_step;
  };
  // The run and epoch that a model's publishers belong to.
  struct Epoch {
    std::string run_id;
    uint64_t epoch = 0;
    std::string layout_spec;
    Labels labels;
    int64_t num_ranks = 1;
    uint64_t source_set = 0;  // of the publishers alone
    std::map<int64_t, RankSlot> ranks;
    // Steps up to here were published before another run took over.
    std::optional<uint64_t> floor_step;
    // The newest step that was withdrawn.
    std::optional<uint64_t> gone_step;
  };
  // What is remembered of a run: its newest epoch, and the newest step there.
  struct KnownRun {
    std::string run_id;
    uint64_t epoch = 0;
    std::optional<uint64_t> newest_step;
  };
  struct Model {
    std::optional<Epoch> current;
    std::map<VersionId, Version> versions;
    std::deque<VersionId> gone;       // the oldest first
    std::set<std::string> copies;     // worker ids of those that live
    std::deque<std::string> dead;     // worker ids, the oldest first
    std::deque<KnownRun> known_runs;  // the last used at the end
    int64_t workers = 0;              // registered or attached
    // The number of the next event when the last of them ended.
    uint64_t idle_since = 0;
  };
  struct LeaseState {
    std::string worker_id;
    VersionKey key;
    TimePoint expiry;
  };
  struct RevokedLease {
    std::string worker_id;
    std::string reason;
  };

  static bool IsOrphan(const Worker& worker) {
    return worker.life == Life::kAttached && worker.holder.server.empty();
  }
  void MakeOrphan(Worker& worker, TimePoint now);

  // Parts of Encode and Decode.
  friend class StateWriter;
  friend class StateReader;
  // What holds between the parts after every call.
  absl::Status CheckWhole() const;
  bool IsWholeModel(const std::string& name, const Model& model) const;
  bool IsWholeVersion(const std::string& name, const Model& model,
                      const Version& version) const;
  bool IsWholeWorker(const Worker& worker) const;

  // Lookups.
  const Worker* FindWorker(const std::string& worker_id) const;
  absl::StatusOr<Worker*> FindAttached(const std::string& worker_id, Role role);
  // A publisher or a copy.
  absl::StatusOr<Worker*> FindSource(const std::string& worker_id);
  Version* FindVersion(const VersionKey& key);
  const Version* FindVersion(const VersionKey& key) const;

  // Registration.
  absl::Status CheckEpoch(const Model& model, const WorkerInfo& info) const;
  absl::Status CheckRoom(const WorkerInfo& info) const;
  absl::Status CheckMesh(const Model& model, const WorkerInfo& info) const;
  // Before a worker of `model` registers: other models that have no workers
  // make room, those first that have had none longest.
  void ForgetIdleModels(const std::string& model);
  void EnterEpoch(Model& model, const WorkerInfo& info);
  void RememberRun(Model& model, const WorkerInfo& info);
  void Kill(const std::string& worker_id, const std::string& reason,
            EventKind kind = EventKind::kWorkerDied);
  void KillPublisher(Model& model, const Worker& worker,
                     const std::string& reason);
  void Bury(Model& model, const std::string& worker_id);
  // A worker of it is no longer registered or attached.
  void CountOut(Model& model);
  void ReleaseBlobs(const WorkerInfo& info);
  void DropRegistration(const std::string& id, const std::string& reason);
  // Whether who holds the rank has registered and not attached yet.
  bool IsUnattached(const RankSlot& slot) const;
  // A publisher has come or, with `sign` -1, gone.
  void CountPublisher(Model& model, uint64_t generation, int sign);

  // Versions and leases.
  absl::Status CheckStep(const Epoch& epoch, const RankSlot& slot, int64_t rank,
                         uint64_t step) const;
  static VersionRecord GoneBefore(const std::string& model, const Epoch& epoch,
                                  uint64_t step);
  // The version that is READY, or was last, as far as those that are GONE are
  // kept; nullptr: none.
  static const VersionId* LastReady(const Model& model);
  // What a person should know of a version that is about to be READY: that its
  // step is lower than the last one of an epoch before, or that its run is
  // another one. Empty as a rule.
  static std::string DescribeStepBack(const Model& model, const VersionId& id);
  // What a rank that lives on no longer holds.
  void WithdrawShards(Model& model, int64_t rank, const std::string& reason);
  // What a rank held that has died.
  void LoseShards(Model& model, const Worker& worker,
                  const std::string& reason);
  // Why a worker is dead whose attachment has ended: no more is known of it
  // than whether it said so itself.
  static std::string DescribeEnd(const WorkerInfo& info, bool in_order);
  // A publisher rejoins: what is GONE because its attachment ended went with a
  // connection, and not with a process.
  void DescribeReturn(Model& model, const WorkerInfo& info);
  // Whether somebody who lives holds that shard of the version.
  bool IsHeld(const Model& model, const Version& version,
              const std::string& shard_key) const;
  // A version is about to be READY: another one that lives on by copies ends.
  void RetireOlder(Model& model, const VersionId& ready);
  static bool IsSource(const WorkerInfo& info) {
    return info.role == Role::kPublisher || info.role == Role::kCopy;
  }
  // Of copies.
  absl::Status CheckCopy(const WorkerInfo& info) const;
  absl::StatusOr<VersionRecord> PublishCopy(Worker& worker, uint64_t step);
  // `reason`: why what lives on by this copy alone ends.
  void WithdrawCopy(Model& model, const Worker& worker,
                    const std::string& reason);
  // What the source holds of a version that is not GONE, or nothing.
  VersionId HeldVersion(const Model& model, const Worker& worker) const;
  SourceRecord ToSource(const Model& model, const Worker& worker,
                        bool with_binding) const;
  // Parts of GetSources, the publishers first.
  void AddPublishers(const Model& model, bool with_binding,
                     SourceSet& sources) const;
  void AddCopies(const Model& model, bool with_binding,
                 SourceSet& sources) const;
  // Revokes its leases. The version may be forgotten with this call.
  int64_t Withdraw(Model& model, const VersionId& version,
                   const std::string& reason);
  // Why no lease in force has this id.
  absl::Status NoSuchLease(const std::string& lease_id) const;
  // OK while the lease is in force, and on a version of the model.
  absl::Status CheckLease(const std::string& lease_id,
                          const std::string& model) const;
  // Ends a lease before its time; its id stays known with the reason.
  void Revoke(const std::string& lease_id, const std::string& reason);
  absl::StatusOr<Lease> Grant(Worker& worker, const VersionKey& key,
                              Version& version, TimePoint now);
  void EndLease(std::map<std::string, LeaseState>::iterator lease);
  void Emit(const VersionRecord& record) { changes_.push_back(record); }

  // Events. The reference lasts until the next one.
  Event& NewEvent(EventKind kind, const std::string& model,
                  std::string_view reason);
  Event& TellWorker(EventKind kind, const Worker& worker,
                    std::string_view reason = "");
  void TellShard(EventKind kind, const Worker& worker,
                 const VersionRecord& record);
  // `by`: the worker that moved it, if one did.
  void TellVersion(EventKind kind, const VersionRecord& record,
                   const Worker* by = nullptr);
  // Of a lease that is no longer held without its version.
  void TellLease(EventKind kind, const std::string& lease_id,
                 const std::string& worker_id, const VersionKey* key,
                 std::string_view reason = "");

  uint64_t NextNumber() { return next_number_++; }

  StateOptions options_;
  uint64_t next_number_;
  PlacementIndex placements_;
  std::map<std::string, Worker> workers_;
  std::map<std::string, Model> models_;
  std::map<std::string, LeaseState> leases_;
  std::set<std::pair<TimePoint, std::string>> lease_expiries_;
  std::set<std::pair<TimePoint, std::string>> attach_expiries_;
  std::map<std::string, RevokedLease> revoked_;  // by lease id
  std::deque<std::string> revoked_order_;
  std::vector<VersionRecord> changes_;
  std::vector<std::string> notes_;
  uint64_t event_log_id_;
  uint64_t next_event_ = 1;
  int64_t event_time_ns_ = 0;
  std::vector<Event> events_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_CATALOG_STATE_H_
