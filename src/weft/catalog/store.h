// The catalog: who publishes which version of which model, where it lies, and
// who may read it. CatalogStore is the one interface: `catalog/memory` holds
// the state, `catalog/grpc` serves a store over the network and has a client
// that is itself a CatalogStore, so one conformance suite
// (catalog/testing/conformance.h) holds for all.
//
// The catalog moves no weights and understands no placement: manifests are
// opaque bytes to it, addressed by digest.
//
// Threads: every method may be called from any thread. Every method that can
// wait takes a Deadline. Errors: kUnavailable (the catalog is not there),
// kNotFound (model, worker or version unknown), kAlreadyExists,
// kFailedPrecondition (older epoch, wrong state, withdrawn), kInvalidArgument,
// kDeadlineExceeded.
#ifndef WEFT_CATALOG_STORE_H_
#define WEFT_CATALOG_STORE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"

namespace weft::catalog {

struct EventPage;   // event.h
struct EventQuery;  // event.h

// run id : epoch : step. Within a run a larger epoch is a restart that takes
// over; within an epoch steps grow.
struct VersionId {
  std::string run_id;
  uint64_t epoch = 0;
  uint64_t step = 0;
  friend auto operator<=>(const VersionId&, const VersionId&) = default;
};
std::string ToString(const VersionId& version);  // "run:3:17"
// "RUN:EPOCH:STEP"; kInvalidArgument with what is wrong.
absl::StatusOr<VersionId> ParseVersionId(std::string_view text);
// Whether a receiver that holds `than` would go to `version`. Runs are not
// ordered by name: of two runs the one that is READY has taken over.
bool IsNewer(const VersionId& version, const VersionId& than);

// 1..128 characters of [A-Za-z0-9._/-], for models and run ids.
absl::Status CheckName(std::string_view what, std::string_view name);

enum class VersionState : uint8_t {
  kStaging = 1,   // some ranks of the mesh have published it
  kReady = 2,     // all have: may be leased
  kRetiring = 3,  // a publisher begins to change the memory: no new leases
  kGone = 4,      // no longer to be had
};
std::string_view ToString(VersionState state);

// What a publisher says of its weights beyond their layout: "precision" ->
// "fp8". Names as CheckName has them, values of at most 256 bytes, 16 of them.
using Labels = std::map<std::string, std::string>;
// Whether all of `required` are among `labels`.
bool HasLabels(const Labels& labels, const Labels& required);
std::string ToString(const Labels& labels);  // "precision=fp8,revision=a1b2"

enum class Role : uint8_t {
  kPublisher = 1,
  kReceiver = 2,
  // Serves what a receiver has committed, byte for byte: a further source of a
  // version for receivers that come later.
  kCopy = 3,
};
std::string_view ToString(Role role);

struct WorkerInfo {
  std::string model;
  Role role = Role::kPublisher;
  std::string layout_spec;
  int64_t rank = 0;
  int64_t num_ranks = 1;
  // Publishers and copies: which run and epoch they belong to.
  std::string run_id;
  uint64_t epoch = 0;
  std::string host_id;
  int64_t process_id = 0;
  std::string placement_digest_hex;
  // Opaque bytes, put like a placement, that describe the model to receivers
  // that know nothing of it; empty for none.
  std::string model_card_digest_hex;
  // Publishers: names what this rank holds, as a digest; ranks with the same
  // one are replicas, each of which can stand in for the others. Opaque to the
  // catalog; empty: nobody else holds it.
  std::string shard_key{};
  // Copies: the shard keys of the publishers that they can stand in for, as
  // they hold all of the same, byte for byte. Ascending, at most
  // kMaxHeldShards.
  std::vector<std::string> held_shards{};
  // Publishers only: equal for all of an epoch.
  Labels labels{};
  // The name of the token that it was registered with, set by the server that
  // checked it; empty: none. What a client says here is not listened to.
  std::string owner{};
  // Publishers: it was registered before, in the same life of its process, and
  // has lost its place. It does not take over from another run. Not kept.
  bool rejoins = false;
};

struct WorkerRecord {
  std::string worker_id;    // chosen by the store
  uint64_t generation = 0;  // grows over all registrations of the store
  WorkerInfo info;
  bool alive = false;
  std::string fenced_reason;  // receivers: why they must not serve, or empty
  VersionId committed;        // receivers: last commit; run_id empty = none
  // Publishers and copies: what their memory is known to hold of a version that
  // is not GONE; run_id empty = nothing.
  VersionId holds{};
  // Dead ones: "publisher rank 2 died or lost its connection", or "publisher
  // rank 2 has ended" if it said so itself.
  std::string death_reason;
};

struct Registration {
  std::string worker_id;
  uint64_t generation = 0;
};

// Keeps a worker alive. Destroying it (or the death of the process, seen by
// the broken stream) marks the worker dead and withdraws what it published.
class Attachment {
 public:
  virtual ~Attachment() = default;
  // OK while the catalog holds the worker as alive; kFailedPrecondition when
  // a newer epoch has taken over; kUnavailable when the catalog is gone.
  virtual absl::Status Health() = 0;
  // True when it is known here, without asking anybody, that it keeps nothing
  // alive any more, and never will.
  virtual bool IsOver() { return false; }
  // Before its worker destroys it: the worker ends in order, and others are
  // told so instead of that it died or lost its connection.
  virtual void EndInOrder() {}
  // Before a server that goes destroys it: the worker may live on if the store
  // outlives the server, until it has had its time to attach again elsewhere.
  virtual void Abandon() {}
};

struct VersionRecord {
  std::string model;
  VersionId version;
  VersionState state = VersionState::kStaging;
  // Why it is RETIRING or GONE: "publisher rank 2 updates its memory". READY:
  // that its step is lower than the last one of an epoch before, or of another
  // run.
  std::string reason;
  int64_t ranks_published = 0;
  int64_t ranks_expected = 0;
  int64_t leases = 0;
  // SourceSetOf the live sources that hold it (STAGING: of the epoch's
  // publishers). A receiver that holds a plan for the same value need not ask
  // for manifests.
  uint64_t source_set = 0;
  Labels labels{};  // of its publishers
};

// One source of a version, with what a receiver needs to reach it.
struct SourceRecord {
  int64_t rank = 0;  // in its mesh: a copy's is that of the receivers
  uint64_t generation = 0;
  std::string host_id;
  std::string placement_digest_hex;
  // manifest::EncodeBinding: addresses and keys. Only for a lease; else empty.
  std::string binding;
  Role role = Role::kPublisher;
  std::string worker_id;
  // The version that its memory is known to hold; run_id empty: none.
  VersionId holds;
  // Publishers: their own, if they have one. Copies: those that no live
  // publisher has.
  std::vector<std::string> shard_keys{};
};

struct SourceSet {
  uint64_t source_set = 0;
  int64_t num_ranks = 0;
  std::string model_card_digest_hex;  // of the lowest rank that gave one
  // Publishers by ascending rank, then the copies that hold something by
  // ascending generation.
  std::vector<SourceRecord> sources;
};

// Names a set of sources by their generations, whatever their order: a sum of
// a term for each, so that it is kept up to date without looking at the others.
// Two sets share a number with probability 2^-64.
uint64_t SourceSetTerm(uint64_t generation);
uint64_t SourceSetOf(const std::vector<SourceRecord>& sources);

struct Lease {
  std::string lease_id;   // WorkerOfLease(lease_id) holds it
  VersionRecord version;  // state at the time; source_set is what is leased
  // It is revoked so long after it was granted or renewed last; 0: not known.
  std::chrono::nanoseconds lasts{0};
};

// The worker that a lease was given to: its id is a part of the lease's, so
// that a server can see whose a lease is. Empty for what is no lease id.
std::string WorkerOfLease(std::string_view lease_id);

// A lease that is held, for a person.
struct LeaseRecord {
  std::string lease_id;
  std::string model;
  VersionId version;
  std::string worker_id;
  std::chrono::nanoseconds expires_in{0};
};

// Events of one model: first the versions that exist, then every change of a
// record but the number of leases alone. A reader that falls behind gets only
// the newest record of each version, in the order of those newest changes, so
// that a watch never holds more than the model itself.
class VersionWatch {
 public:
  virtual ~VersionWatch() = default;
  // The next record. kDeadlineExceeded if none comes in time (the watch stays
  // usable), kUnavailable when the catalog is gone, kCancelled after Cancel.
  virtual absl::StatusOr<VersionRecord> Next(base::Deadline deadline) = 0;
  // May be called from another thread; ends a Next that waits.
  virtual void Cancel() = 0;
  // For a server that cannot spare a thread for each watch: calls `wake` once
  // at once, and from then on, from any thread, whenever Next may have
  // something to return without waiting. `wake` may call Next and nothing else
  // of the catalog. It is not called any more once SetWake(nullptr) or the
  // destructor has returned.
  virtual void SetWake(std::function<void()> wake) = 0;
};

class CatalogStore {
 public:
  virtual ~CatalogStore() = default;

  // Placements are content-addressed: put once, by the digest of the bytes
  // (checked by the store: kInvalidArgument if it differs).
  virtual absl::Status PutPlacement(const std::string& digest_hex,
                                    const std::string& bytes,
                                    base::Deadline deadline) = 0;
  virtual absl::StatusOr<std::string> GetPlacement(
      const std::string& digest_hex, base::Deadline deadline) = 0;

  // A publisher of a rank that has a live publisher of the same run and epoch
  // is kAlreadyExists; of an older epoch of the run kFailedPrecondition; of a
  // newer epoch, or another run, takes over: the older epoch's publishers are
  // fenced and their versions GONE. One that rejoins is kFailedPrecondition
  // when another run is there. layout_spec and num_ranks must agree with the
  // other live publishers of that epoch (kInvalidArgument). A publisher's
  // placement must have been put (kNotFound). A publisher that has registered
  // and may still attach counts as live here, but for its own rank: whoever
  // registers that takes its place, for it may have died, and has published
  // nothing; its Attach is kNotFound from then on. A copy belongs to the epoch
  // that runs (kFailedPrecondition), and ends with it; its rank, mesh and
  // layout are those of its receiver.
  virtual absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                                const std::string& binding,
                                                base::Deadline deadline) = 0;
  // A worker counts as alive from Attach on; one that never attaches within
  // 10 s of Register is dropped. A worker is attached once: kAlreadyExists, or
  // kFailedPrecondition if it has died or was fenced.
  virtual absl::StatusOr<std::unique_ptr<Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) = 0;
  // For a worker whose attachment broke with the server that held it: takes it
  // over, whoever holds it now; what it published and leases stays. kNotFound
  // if the store does not know it, kFailedPrecondition if it has died or has
  // another generation.
  virtual absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration& worker, base::Deadline deadline) = 0;

  // This rank's memory holds `step` of its run and epoch from now on. The
  // version becomes READY when every rank of the mesh has published it. Steps
  // of a rank must grow within an epoch, even over a restart of the rank
  // (kFailedPrecondition); any older version that this rank still has is
  // withdrawn. A rank that comes late, when another one has withdrawn the
  // version already, gets OK and a record that is GONE. The worker must be an
  // attached publisher or copy (kFailedPrecondition, kInvalidArgument).
  //
  // When a publisher dies, a version that was READY stays READY as long as what
  // each of its ranks that died held is held by another one: a live replica
  // (WorkerInfo::shard_key) or copy (WorkerInfo::held_shards). All else that
  // the dead rank held is withdrawn. What lives on by a copy is over when the
  // last such copy leaves it, and RETIRING or GONE when a newer version of its
  // epoch is READY.
  //
  // A copy joins the holders of a version that is READY (kFailedPrecondition).
  // No version waits for it.
  virtual absl::StatusOr<VersionRecord> PublishShard(
      const std::string& worker_id, uint64_t step, base::Deadline deadline) = 0;
  // The same for a publisher that lost the answer of PublishShard: OK if `step`
  // is what it has published last already. kFailedPrecondition if it has done
  // so under a place that was lost since, and that version with it.
  virtual absl::StatusOr<VersionRecord> RepublishShard(
      const std::string& worker_id, uint64_t step, base::Deadline deadline) = 0;

  // The rank is about to change its memory: its newest version becomes
  // RETIRING at once, then waits until no lease is left, at most until
  // `revoke_after`; remaining leases are then revoked and the version GONE.
  // Returns the number of leases that this call revoked. OK with 0 if nothing
  // is published. kFailedPrecondition if the worker dies or is fenced
  // meanwhile. A copy just leaves the holders of its version, with 0: who reads
  // it sees its epoch word, and has other sources.
  virtual absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                              base::Deadline revoke_after) = 0;

  virtual absl::StatusOr<std::unique_ptr<VersionWatch>> WatchVersions(
      const std::string& model, base::Deadline deadline) = 0;

  // Live publishers of the newest run and epoch of `model`, whatever its
  // versions' states, and copies that hold one. kNotFound if there is neither.
  // With the id of a lease on a version of the model, their bindings
  // too: kNotFound or kFailedPrecondition if it is not known or no longer in
  // force.
  virtual absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                               const std::string& lease_id,
                                               base::Deadline deadline) = 0;
  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       base::Deadline deadline) {
    return GetSources(model, "", deadline);
  }

  // The version must be READY, the worker an attached receiver.
  virtual absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                             const VersionId& version,
                                             base::Deadline deadline) = 0;
  // The same for the newest READY version of the worker's model, if it is
  // newer than `newer_than` (nullptr: than nothing); else kNotFound. Looking
  // and leasing are one step: a warm refit asks the catalog once.
  virtual absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                                   const VersionId* newer_than,
                                                   base::Deadline deadline) = 0;
  // The holder is still at work: the lease lasts Lease::lasts from now on, also
  // when its version is RETIRING by now. kFailedPrecondition if it has been
  // revoked, which nothing undoes; kNotFound if it is not known. No event tells
  // of it.
  virtual absl::Status RenewLease(const std::string& lease_id,
                                  base::Deadline deadline) = 0;
  // Ends a lease. `committed`: the receiver now serves that version; else
  // `fenced_reason` says why it must not serve (empty: as before the lease).
  // kFailedPrecondition if the lease had been revoked: then nothing is recorded
  // as committed, but a fenced_reason is.
  virtual absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                                    const std::string& fenced_reason,
                                    base::Deadline deadline) = 0;

  // Without a lease: an attached receiver serves `committed` (one that it kept,
  // or that it holds in full since its lease ended), or must not serve because
  // of `fenced_reason` (`committed` is nullptr then: the last commit stays as
  // it was told). kInvalidArgument when both or neither is given.
  virtual absl::Status ReportServing(const std::string& worker_id,
                                     const VersionId* committed,
                                     const std::string& fenced_reason,
                                     base::Deadline deadline) = 0;

  // Sorted by model, then version / rank. Empty model = all.
  virtual absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) = 0;
  virtual absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(
      const std::string& model, base::Deadline deadline) = 0;

  // What a person or a checker may see of the catalog; a store need not have
  // it (kUnimplemented). Leases that are held, sorted by model, version and
  // worker; empty model = all.
  virtual absl::StatusOr<std::vector<LeaseRecord>> ListLeases(
      const std::string& model, base::Deadline deadline);
  // The events from a number on, as far as they are kept.
  virtual absl::StatusOr<EventPage> ReadEvents(const EventQuery& query,
                                               base::Deadline deadline);
};

// Waits by a watch until the version is READY: `exact`, or the newest one if
// `exact` is nullptr (newer than `newer_than` if that is given).
// kDeadlineExceeded says what state things were in: "model \"m\" has no READY
// version after 5 s; newest is run:0:3 STAGING with 2 of 4 ranks".
// kFailedPrecondition when `exact` is GONE. Without `exact`, only versions that
// have the labels `required` count. `while_waiting`, if given, is
// called some times a second; an error of it ends the wait and is returned.
absl::StatusOr<VersionRecord> WaitForReady(
    CatalogStore& store, const std::string& model, const VersionId* exact,
    const VersionId* newer_than, base::Deadline deadline,
    const std::function<absl::Status()>& while_waiting = nullptr,
    const Labels& required = {});

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STORE_H_
