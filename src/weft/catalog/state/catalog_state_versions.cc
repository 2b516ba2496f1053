// Versions and leases.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"
#include "weft/catalog/version_queue.h"

namespace weft::catalog {
namespace {

// Revoked leases whose holders have not released them yet; older ones are
// unknown then, which a receiver treats alike.
constexpr std::size_t kRevokedLeasesKept = 4096;

}  // namespace

CatalogState::Version* CatalogState::FindVersion(const VersionKey& key) {
  return const_cast<Version*>(std::as_const(*this).FindVersion(key));
}

const CatalogState::Version* CatalogState::FindVersion(
    const VersionKey& key) const {
  const auto model = models_.find(key.model);
  if (model == models_.end()) return nullptr;
  const auto version = model->second.versions.find(key.version);
  return version == model->second.versions.end() ? nullptr : &version->second;
}

absl::Status CatalogState::CheckStep(const Epoch& epoch, const RankSlot& slot,
                                     int64_t rank, uint64_t step) const {
  const std::optional<uint64_t> last =
      slot.last_step ? slot.last_step : epoch.floor_step;
  if (!last || step > *last) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "step ", step, " of rank ", rank, " does not grow: step ", *last,
      " was published in epoch ", epoch.epoch, " of run \"", epoch.run_id,
      "\" before (a restarted trainer takes a larger epoch)"));
}

absl::StatusOr<VersionRecord> CatalogState::PublishShard(
    const std::string& worker_id, uint64_t step) {
  WEFT_ASSIGN_OR_RETURN(Worker * worker, FindSource(worker_id));
  const WorkerInfo& info = worker->record.info;
  if (info.role == Role::kCopy) return PublishCopy(*worker, step);
  Model& model = models_[info.model];
  Epoch& epoch = *model.current;
  RankSlot& slot = epoch.ranks[info.rank];
  WEFT_RETURN_IF_ERROR(CheckStep(epoch, slot, info.rank, step));
  WithdrawShards(
      model, info.rank,
      absl::StrCat("publisher rank ", info.rank, " has published step ", step));
  slot.last_step = step;
  worker->last_step = step;

  const VersionId id{epoch.run_id, epoch.epoch, step};
  const auto known = model.versions.find(id);
  if (known == model.versions.end() && epoch.gone_step &&
      step <= *epoch.gone_step) {
    return GoneBefore(info.model, epoch, step);
  }
  Version& version = model.versions[id];
  VersionRecord& record = version.record;
  if (record.state == VersionState::kGone) return record;
  if (version.ranks.empty()) {
    record.model = info.model;
    record.version = id;
    record.ranks_expected = epoch.num_ranks;
    record.source_set = epoch.source_set;
    record.labels = epoch.labels;
  }
  version.ranks.insert(info.rank);
  record.ranks_published = static_cast<int64_t>(version.ranks.size());
  TellShard(EventKind::kShardPublished, *worker, record);
  if (record.ranks_published == record.ranks_expected) {
    record.reason = DescribeStepBack(model, id);
    record.state = VersionState::kReady;
    if (!record.reason.empty()) {
      notes_.push_back(absl::StrCat("model \"", info.model, "\": version ",
                                    ToString(id), ": ", record.reason));
    }
    // One version of a model is READY at a time.
    RetireOlder(model, id);
    TellVersion(EventKind::kVersionReady, record, worker);
  } else if (record.ranks_published == 1) {
    TellVersion(EventKind::kVersionStaging, record, worker);
  }
  Emit(record);
  return record;
}

// What a rank gets that comes with a step the others have left already.
VersionRecord CatalogState::GoneBefore(const std::string& model,
                                       const Epoch& epoch, uint64_t step) {
  VersionRecord late;
  late.model = model;
  late.version = {epoch.run_id, epoch.epoch, step};
  late.state = VersionState::kGone;
  late.reason = absl::StrCat("step ", epoch.gone_step.value_or(step),
                             " of the same epoch was withdrawn before");
  late.ranks_expected = epoch.num_ranks;
  late.source_set = epoch.source_set;
  late.labels = epoch.labels;
  return late;
}

absl::StatusOr<VersionRecord> CatalogState::RepublishShard(
    const std::string& worker_id, uint64_t step) {
  WEFT_ASSIGN_OR_RETURN(const Worker* worker, FindSource(worker_id));
  if (worker->record.info.role == Role::kCopy) {
    return PublishShard(worker_id, step);
  }
  const WorkerInfo& info = worker->record.info;
  const VersionId id{info.run_id, info.epoch, step};
  const Epoch& epoch = *models_.at(info.model).current;
  const Version* version = FindVersion({info.model, id});
  if (worker->last_step != step) {
    // A place that was lost, and the version with it: that says more than that
    // the step does not grow.
    if (version != nullptr && version->record.state == VersionState::kGone &&
        epoch.ranks.at(info.rank).last_step == step) {
      return absl::FailedPreconditionError(
          absl::StrCat("version ", ToString(id), " of model \"", info.model,
                       "\" is GONE: ", version->record.reason));
    }
    return PublishShard(worker_id, step);
  }
  if (version != nullptr) return version->record;
  return GoneBefore(info.model, epoch, step);
}

const VersionId* CatalogState::LastReady(const Model& model) {
  for (auto each = model.versions.rbegin(); each != model.versions.rend();
       ++each) {
    const VersionState state = each->second.record.state;
    if (state == VersionState::kReady || state == VersionState::kRetiring) {
      return &each->first;
    }
  }
  for (auto id = model.gone.rbegin(); id != model.gone.rend(); ++id) {
    const VersionRecord& record = model.versions.at(*id).record;
    if (record.ranks_published == record.ranks_expected) return &*id;
  }
  return nullptr;
}

std::string CatalogState::DescribeStepBack(const Model& model,
                                           const VersionId& id) {
  const VersionId* last = LastReady(model);
  if (last == nullptr) return "";
  if (last->run_id != id.run_id) {
    return absl::StrCat("step ", id.step, " of run \"", id.run_id,
                        "\" follows step ", last->step, " of another run, ",
                        ToString(*last));
  }
  if (id.step >= last->step) return "";
  return absl::StrCat("step ", id.step, " follows the higher step ", last->step,
                      " of ", ToString(*last),
                      ": the trainer has gone back to a checkpoint, or to "
                      "initial weights");
}

void CatalogState::WithdrawShards(Model& model, int64_t rank,
                                  const std::string& reason) {
  std::vector<VersionId> held;
  for (const auto& [id, version] : model.versions) {
    if (version.record.state != VersionState::kGone && version.HeldBy(rank)) {
      held.push_back(id);
    }
  }
  for (const VersionId& id : held) Withdraw(model, id, reason);
}

int64_t CatalogState::Withdraw(Model& model, const VersionId& id,
                               const std::string& reason) {
  Version& version = model.versions.at(id);
  VersionRecord& record = version.record;
  record.state = VersionState::kGone;
  record.reason = reason;
  version.copies.clear();
  const std::set<std::string> leases = version.lease_ids;
  for (const std::string& lease_id : leases) {
    Revoke(lease_id,
           absl::StrCat("version ", ToString(id), " is GONE: ", reason));
  }
  TellVersion(EventKind::kVersionGone, record);
  Emit(record);
  if (model.current && model.current->run_id == id.run_id &&
      model.current->epoch == id.epoch) {
    model.current->gone_step =
        std::max(model.current->gone_step.value_or(0), id.step);
  }
  model.gone.push_back(id);
  if (model.gone.size() > kGoneVersionsKept) {
    model.versions.erase(model.gone.front());
    model.gone.pop_front();
  }
  return static_cast<int64_t>(leases.size());
}

absl::StatusOr<std::optional<CatalogState::VersionKey>> CatalogState::Retire(
    const std::string& worker_id) {
  WEFT_ASSIGN_OR_RETURN(const Worker* worker, FindSource(worker_id));
  const WorkerInfo& info = worker->record.info;
  Model& model = models_[info.model];
  if (info.role == Role::kCopy) {
    WithdrawCopy(model, *worker, "changes its memory");
    return std::nullopt;
  }
  const RankSlot& slot = model.current->ranks[info.rank];
  if (!slot.last_step) return std::nullopt;
  const VersionId id{info.run_id, info.epoch, *slot.last_step};
  const auto found = model.versions.find(id);
  if (found == model.versions.end()) return std::nullopt;
  VersionRecord& record = found->second.record;
  if (record.state == VersionState::kGone || !found->second.HeldBy(info.rank)) {
    return std::nullopt;
  }
  const std::string reason =
      absl::StrCat("publisher rank ", info.rank, " updates its memory");
  if (record.state != VersionState::kRetiring) {
    record.state = VersionState::kRetiring;
    record.reason = reason;
    TellVersion(EventKind::kVersionRetiring, record, worker);
    Emit(record);
  }
  if (record.leases > 0) return VersionKey{info.model, id};
  Withdraw(model, id, record.reason);
  return std::nullopt;
}

absl::StatusOr<bool> CatalogState::IsRetired(const std::string& worker_id,
                                             const VersionKey& key) const {
  const Worker* worker = FindWorker(worker_id);
  if (worker == nullptr || worker->life != Life::kAttached) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker \"", worker_id, "\" ended while its update waited for leases",
        worker == nullptr ? "" : absl::StrCat(": ", worker->death_reason)));
  }
  if (IsOrphan(*worker)) {
    return absl::UnavailableError(absl::StrCat(
        "worker \"", worker_id,
        "\" lost its catalog server while its update waited for leases"));
  }
  const Version* version = FindVersion(key);
  return version == nullptr || version->record.state == VersionState::kGone;
}

int64_t CatalogState::RevokeAndWithdraw(const VersionKey& key) {
  const Version* version = FindVersion(key);
  if (version == nullptr || version->record.state == VersionState::kGone) {
    return 0;
  }
  const std::string reason =
      absl::StrCat(version->record.reason, ", ", version->record.leases,
                   " leases revoked at its deadline");
  return Withdraw(models_[key.model], key.version, reason);
}

absl::StatusOr<Lease> CatalogState::AcquireLease(const std::string& worker_id,
                                                 const VersionId& id,
                                                 TimePoint now) {
  WEFT_ASSIGN_OR_RETURN(Worker * worker,
                        FindAttached(worker_id, Role::kReceiver));
  const VersionKey key{worker->record.info.model, id};
  Version* version = FindVersion(key);
  if (version == nullptr) {
    return absl::NotFoundError(absl::StrCat("version ", ToString(id),
                                            " of model \"", key.model,
                                            "\" is not known"));
  }
  VersionRecord& record = version->record;
  if (record.state != VersionState::kReady) {
    return absl::FailedPreconditionError(absl::StrCat(
        "version ", ToString(id), " of model \"", key.model, "\" is ",
        std::string(ToString(record.state)), ", not READY",
        record.reason.empty() ? "" : absl::StrCat(": ", record.reason)));
  }
  return Grant(*worker, key, *version, now);
}

absl::StatusOr<Lease> CatalogState::AcquireNewestLease(
    const std::string& worker_id, const VersionId* newer_than, TimePoint now) {
  WEFT_ASSIGN_OR_RETURN(Worker * worker,
                        FindAttached(worker_id, Role::kReceiver));
  const std::string& name = worker->record.info.model;
  // Only the current epoch of one run has READY versions: the last in order is
  // the newest.
  const auto model = models_.find(name);
  if (model != models_.end()) {
    std::map<VersionId, Version>& versions = model->second.versions;
    for (auto each = versions.rbegin(); each != versions.rend(); ++each) {
      if (each->second.record.state != VersionState::kReady) continue;
      if (newer_than != nullptr && !IsNewer(each->first, *newer_than)) continue;
      return Grant(*worker, {name, each->first}, each->second, now);
    }
  }
  return absl::NotFoundError(
      absl::StrCat("model \"", name, "\" has no READY version",
                   newer_than == nullptr
                       ? std::string()
                       : absl::StrCat(" newer than ", ToString(*newer_than))));
}

absl::StatusOr<Lease> CatalogState::Grant(Worker& worker, const VersionKey& key,
                                          Version& version, TimePoint now) {
  VersionRecord& record = version.record;
  const std::string& worker_id = worker.record.worker_id;
  if (static_cast<int64_t>(worker.lease_ids.size()) >= kMaxLeasesOfWorker) {
    return absl::ResourceExhaustedError(
        absl::StrCat("worker \"", worker_id, "\" holds ",
                     worker.lease_ids.size(), " leases, its limit"));
  }
  Lease lease;
  lease.lease_id = absl::StrCat("l", NextNumber(), ".", worker_id);
  const TimePoint expiry = now + options_.lease_duration;
  leases_.emplace(lease.lease_id, LeaseState{worker_id, key, expiry});
  lease_expiries_.emplace(expiry, lease.lease_id);
  worker.lease_ids.insert(lease.lease_id);
  version.lease_ids.insert(lease.lease_id);
  ++record.leases;
  TellLease(EventKind::kLeaseAcquired, lease.lease_id, worker_id, &key);
  lease.version = record;
  lease.lasts = options_.lease_duration;
  return lease;
}

void CatalogState::EndLease(std::map<std::string, LeaseState>::iterator lease) {
  const std::string lease_id = lease->first;
  const LeaseState state = std::move(lease->second);
  leases_.erase(lease);
  lease_expiries_.erase({state.expiry, lease_id});
  const auto worker = workers_.find(state.worker_id);
  if (worker != workers_.end()) worker->second.lease_ids.erase(lease_id);
  Version* version = FindVersion(state.key);
  version->lease_ids.erase(lease_id);
  --version->record.leases;
  if (version->record.state == VersionState::kRetiring &&
      version->record.leases == 0) {
    Withdraw(models_[state.key.model], state.key.version,
             std::string(version->record.reason));
  }
}

absl::Status CatalogState::CheckLease(const std::string& lease_id,
                                      const std::string& model) const {
  const auto lease = leases_.find(lease_id);
  if (lease == leases_.end()) return NoSuchLease(lease_id);
  if (lease->second.key.model == model) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("lease \"", lease_id, "\" is on model \"",
                   lease->second.key.model, "\", not on \"", model, "\""));
}

absl::Status CatalogState::NoSuchLease(const std::string& lease_id) const {
  const std::string name = CleanReason(lease_id.substr(0, kMaxNameBytes));
  const auto revoked = revoked_.find(lease_id);
  if (revoked != revoked_.end()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "lease \"", name, "\" has been revoked: ", revoked->second.reason));
  }
  return absl::NotFoundError(absl::StrCat("lease \"", name, "\" is not known"));
}

absl::Status CatalogState::RenewLease(const std::string& lease_id,
                                      TimePoint now) {
  const auto lease = leases_.find(lease_id);
  if (lease == leases_.end()) return NoSuchLease(lease_id);
  TimePoint& expiry = lease->second.expiry;
  lease_expiries_.erase({expiry, lease_id});
  expiry = std::max(expiry, now + options_.lease_duration);
  lease_expiries_.emplace(expiry, lease_id);
  return absl::OkStatus();
}

void CatalogState::Revoke(const std::string& lease_id,
                          const std::string& reason) {
  const auto lease = leases_.find(lease_id);
  const LeaseState& held = lease->second;
  revoked_.emplace(lease_id, RevokedLease{held.worker_id, reason});
  TellLease(EventKind::kLeaseRevoked, lease_id, held.worker_id, &held.key,
            reason);
  EndLease(lease);
  revoked_order_.push_back(lease_id);
  if (revoked_order_.size() > kRevokedLeasesKept) {
    revoked_.erase(revoked_order_.front());
    revoked_order_.pop_front();
  }
}

absl::Status CatalogState::ReleaseLease(const std::string& lease_id,
                                        bool committed,
                                        const std::string& fenced_reason) {
  const std::string name = CleanReason(lease_id.substr(0, kMaxNameBytes));
  if (committed && !fenced_reason.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "lease \"", name, "\" is released both as committed and as fenced (",
        CleanReason(fenced_reason), ")"));
  }
  const auto lease = leases_.find(lease_id);
  if (lease != leases_.end()) {
    const LeaseState& held = lease->second;
    WorkerRecord& record = workers_.at(held.worker_id).record;
    if (committed) {
      record.committed = held.key.version;
      record.fenced_reason.clear();
      TellLease(EventKind::kCommitted, lease_id, held.worker_id, &held.key);
    } else if (!fenced_reason.empty()) {
      record.fenced_reason = CleanReason(fenced_reason);
      TellLease(EventKind::kReceiverFenced, lease_id, held.worker_id, &held.key,
                record.fenced_reason);
    }
    TellLease(EventKind::kLeaseReleased, lease_id, held.worker_id, &held.key);
    EndLease(lease);
    return absl::OkStatus();
  }
  const auto revoked = revoked_.find(lease_id);
  if (revoked == revoked_.end()) {
    return absl::NotFoundError(
        absl::StrCat("lease \"", name, "\" is not known"));
  }
  const auto worker = workers_.find(revoked->second.worker_id);
  if (worker != workers_.end() && !fenced_reason.empty()) {
    worker->second.record.fenced_reason = CleanReason(fenced_reason);
    TellLease(EventKind::kReceiverFenced, lease_id, worker->first, nullptr,
              worker->second.record.fenced_reason);
  }
  if (committed) {
    TellLease(EventKind::kCommitRefused, lease_id, revoked->second.worker_id,
              nullptr, revoked->second.reason);
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "lease \"", name, "\" was revoked: ", revoked->second.reason));
}

absl::Status CatalogState::ReportServing(const std::string& worker_id,
                                         const VersionId* committed,
                                         const std::string& fenced_reason) {
  if ((committed != nullptr) != fenced_reason.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "worker \"", CleanReason(worker_id.substr(0, kMaxNameBytes)),
        "\" reports ",
        committed == nullptr
            ? "neither what it serves nor why it does not"
            : absl::StrCat(
                  "that it serves ", ToString(*committed),
                  " and that it must not: ", CleanReason(fenced_reason))));
  }
  WEFT_ASSIGN_OR_RETURN(Worker * worker,
                        FindAttached(worker_id, Role::kReceiver));
  WorkerRecord& record = worker->record;
  if (committed != nullptr) record.committed = *committed;
  record.fenced_reason = CleanReason(fenced_reason);
  if (committed == nullptr) {
    TellWorker(EventKind::kReceiverFenced, *worker, record.fenced_reason);
  } else {
    TellWorker(EventKind::kServing, *worker).version = *committed;
  }
  return absl::OkStatus();
}

std::vector<LeaseRecord> CatalogState::ListLeases(const std::string& model,
                                                  TimePoint now) const {
  std::vector<LeaseRecord> records;
  for (const auto& [id, lease] : leases_) {
    if (!model.empty() && lease.key.model != model) continue;
    records.push_back({.lease_id = id,
                       .model = lease.key.model,
                       .version = lease.key.version,
                       .worker_id = lease.worker_id,
                       .expires_in = lease.expiry - now});
  }
  std::sort(records.begin(), records.end(),
            [](const LeaseRecord& a, const LeaseRecord& b) {
              return std::tie(a.model, a.version, a.worker_id, a.lease_id) <
                     std::tie(b.model, b.version, b.worker_id, b.lease_id);
            });
  return records;
}

std::vector<VersionRecord> CatalogState::ListVersions(
    const std::string& model_name) const {
  std::vector<VersionRecord> records;
  for (const auto& [name, model] : models_) {
    if (!model_name.empty() && name != model_name) continue;
    for (const auto& [id, version] : model.versions) {
      records.push_back(version.record);
    }
  }
  return records;
}

}  // namespace weft::catalog
