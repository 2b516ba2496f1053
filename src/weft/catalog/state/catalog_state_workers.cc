// Registration, life and death of workers.
#include <algorithm>
#include <chrono>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"

namespace weft::catalog {
namespace {

constexpr std::size_t kKnownRuns = 64;

uint64_t MicrosecondsNow() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(
          std::chrono::system_clock::now().time_since_epoch())
          .count());
}

std::string NameEpoch(const std::string& run_id, uint64_t epoch) {
  return absl::StrCat("epoch ", epoch, " of run \"", run_id, "\"");
}

absl::Status UnknownWorker(const std::string& worker_id) {
  return absl::NotFoundError(absl::StrCat(
      "worker \"", CleanReason(worker_id.substr(0, kMaxNameBytes)),
      "\" is not known (a worker that does not attach in time is dropped, and "
      "one that has not attached yet when its rank registers again)"));
}

}  // namespace

CatalogState::CatalogState(const StateOptions& options)
    : options_(options),
      next_number_(options.first_number != 0 ? options.first_number
                                             : MicrosecondsNow()),
      placements_(options.unused_placements_kept,
                  options.unused_placement_bytes_kept),
      event_log_id_(next_number_) {}

const CatalogState::Worker* CatalogState::FindWorker(
    const std::string& worker_id) const {
  const auto found = workers_.find(worker_id);
  return found == workers_.end() ? nullptr : &found->second;
}

absl::StatusOr<CatalogState::Worker*> CatalogState::FindAttached(
    const std::string& worker_id, Role role) {
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return UnknownWorker(worker_id);
  Worker& worker = found->second;
  if (worker.record.info.role != role) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker \"", worker_id, "\" is registered as a ",
                     std::string(ToString(worker.record.info.role)),
                     ", not as a ", std::string(ToString(role))));
  }
  if (worker.life == Life::kDead) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker \"", worker_id, "\" is dead: ", worker.death_reason));
  }
  if (worker.life == Life::kRegistered) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker \"", worker_id, "\" is registered but not attached"));
  }
  return &worker;
}

absl::Status CatalogState::CheckEpoch(const Model& model,
                                      const WorkerInfo& info) const {
  if (info.rejoins && model.current && model.current->run_id != info.run_id) {
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", info.rank, " of ", NameEpoch(info.run_id, info.epoch),
        " of model \"", info.model, "\" does not come back: ",
        NameEpoch(model.current->run_id, model.current->epoch),
        " has taken over"));
  }
  const auto known = std::find_if(
      model.known_runs.begin(), model.known_runs.end(),
      [&](const KnownRun& run) { return run.run_id == info.run_id; });
  if (known == model.known_runs.end() || info.epoch >= known->epoch) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("epoch ", info.epoch, " of run \"", info.run_id,
                   "\" of model \"", info.model, "\" is older than epoch ",
                   known->epoch, ", which has taken over"));
}

absl::Status CatalogState::CheckMesh(const Model& model,
                                     const WorkerInfo& info) const {
  if (!model.current || model.current->run_id != info.run_id ||
      model.current->epoch != info.epoch) {
    return absl::OkStatus();
  }
  const Epoch& current = *model.current;
  const bool has_publisher = std::any_of(
      current.ranks.begin(), current.ranks.end(), [&](const auto& slot) {
        return !slot.second.worker_id.empty() &&
               (slot.first != info.rank || !IsUnattached(slot.second));
      });
  if (!has_publisher) return absl::OkStatus();
  const auto slot = current.ranks.find(info.rank);
  if (slot != current.ranks.end() && !slot->second.worker_id.empty() &&
      !IsUnattached(slot->second)) {
    const Worker* holder = FindWorker(slot->second.worker_id);
    return absl::AlreadyExistsError(absl::StrCat(
        "rank ", info.rank, " of ", NameEpoch(info.run_id, info.epoch),
        " of model \"", info.model, "\" has a live publisher: worker \"",
        slot->second.worker_id, "\", process ", holder->record.info.process_id,
        " on host \"", holder->record.info.host_id,
        "\"; end it first, or publish under a larger epoch"));
  }
  base::FaultList faults;
  if (info.num_ranks != current.num_ranks) {
    faults.Add(absl::StrCat("num_ranks ", info.num_ranks, " of rank ",
                            info.rank, " differs from ", current.num_ranks,
                            " of the live publishers"));
  }
  if (info.layout_spec != current.layout_spec) {
    faults.Add(absl::StrCat("layout_spec \"", info.layout_spec, "\" of rank ",
                            info.rank, " differs from \"", current.layout_spec,
                            "\" of the live publishers"));
  }
  if (info.labels != current.labels) {
    faults.Add(absl::StrCat("labels \"", ToString(info.labels), "\" of rank ",
                            info.rank, " differ from \"",
                            ToString(current.labels),
                            "\" of the live publishers"));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

void CatalogState::RememberRun(Model& model, const WorkerInfo& info) {
  KnownRun run{.run_id = info.run_id, .epoch = info.epoch, .newest_step = {}};
  const auto known = std::find_if(
      model.known_runs.begin(), model.known_runs.end(),
      [&](const KnownRun& old) { return old.run_id == info.run_id; });
  if (known != model.known_runs.end()) {
    if (known->epoch == info.epoch) run.newest_step = known->newest_step;
    model.known_runs.erase(known);
  }
  model.known_runs.push_back(run);
  if (model.known_runs.size() > kKnownRuns) model.known_runs.pop_front();
}

// Makes info's run and epoch the current one. The publishers of another one
// are fenced.
void CatalogState::EnterEpoch(Model& model, const WorkerInfo& info) {
  if (model.current && (model.current->run_id != info.run_id ||
                        model.current->epoch != info.epoch)) {
    const std::string reason =
        absl::StrCat(NameEpoch(info.run_id, info.epoch), " has taken over");
    std::vector<std::string> fenced;
    for (const auto& [rank, slot] : model.current->ranks) {
      if (!slot.worker_id.empty()) fenced.push_back(slot.worker_id);
    }
    const std::size_t num_publishers = fenced.size();
    const VersionId* const last = LastReady(model);
    const std::string change = absl::StrCat(
        reason, " from ",
        NameEpoch(model.current->run_id, model.current->epoch),
        last == nullptr ? "" : absl::StrCat(" after ", ToString(*last)));
    Event& takeover = NewEvent(EventKind::kTakeover, info.model, change);
    takeover.version = {info.run_id, info.epoch, 0};
    // No replica keeps a version of an epoch that is over.
    std::vector<VersionId> over;
    for (const auto& [id, version] : model.versions) {
      if (version.record.state != VersionState::kGone) over.push_back(id);
    }
    for (const VersionId& id : over) Withdraw(model, id, reason);
    fenced.insert(fenced.end(), model.copies.begin(), model.copies.end());
    notes_.push_back(absl::StrCat("model \"", info.model, "\": ", change, ", ",
                                  num_publishers, " publishers fenced"));
    for (const std::string& worker_id : fenced) {
      Kill(worker_id, reason, EventKind::kWorkerFenced);
    }
    model.current.reset();
  }
  RememberRun(model, info);
  if (!model.current) {
    Epoch entered;
    entered.run_id = info.run_id;
    entered.epoch = info.epoch;
    entered.floor_step = model.known_runs.back().newest_step;
    model.current = std::move(entered);
  }
  model.current->layout_spec = info.layout_spec;
  model.current->labels = info.labels;
  model.current->num_ranks = info.num_ranks;
}

absl::Status CatalogState::CheckRoom(const WorkerInfo& info) const {
  if (static_cast<int64_t>(workers_.size()) >= kMaxWorkers) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the catalog has ", workers_.size(),
                     " workers, its limit; register again when others end"));
  }
  if (static_cast<int64_t>(models_.size()) >= kMaxModels &&
      !models_.contains(info.model)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the catalog has ", models_.size(), " models, its limit, and \"",
        info.model, "\" would be another one"));
  }
  return absl::OkStatus();
}

void CatalogState::ForgetIdleModels(const std::string& model) {
  const bool is_new = !models_.contains(model);
  while (true) {
    const bool is_full =
        static_cast<int64_t>(workers_.size()) >= kMaxWorkers ||
        (is_new && static_cast<int64_t>(models_.size()) >= kMaxModels);
    if (!is_full && !is_new) return;
    int64_t num_idle = 0;
    auto oldest = models_.end();
    for (auto each = models_.begin(); each != models_.end(); ++each) {
      if (each->second.workers > 0 || each->first == model) continue;
      ++num_idle;
      if (oldest == models_.end() ||
          each->second.idle_since < oldest->second.idle_since) {
        oldest = each;
      }
    }
    if (num_idle == 0 || (!is_full && num_idle < kIdleModelsKept)) return;
    for (const std::string& id : oldest->second.dead) workers_.erase(id);
    models_.erase(oldest);
  }
}

absl::StatusOr<Registration> CatalogState::Register(const WorkerInfo& info,
                                                    const std::string& binding,
                                                    TimePoint now) {
  ForgetIdleModels(info.model);
  WEFT_RETURN_IF_ERROR(CheckRoom(info));
  const bool publishes = info.role == Role::kPublisher;
  if (info.role == Role::kCopy) WEFT_RETURN_IF_ERROR(CheckCopy(info));
  if (publishes) {
    const auto known = models_.find(info.model);
    if (known != models_.end()) {
      WEFT_RETURN_IF_ERROR(CheckEpoch(known->second, info));
      WEFT_RETURN_IF_ERROR(CheckMesh(known->second, info));
    }
  }
  if (IsSource(info)) {
    if (!placements_.AddUser(info.placement_digest_hex)) {
      return absl::NotFoundError(absl::StrCat(
          "placement ", info.placement_digest_hex, " of rank ", info.rank,
          " of model \"", info.model, "\" has not been put"));
    }
    if (!info.model_card_digest_hex.empty() &&
        !placements_.AddUser(info.model_card_digest_hex)) {
      placements_.RemoveUser(info.placement_digest_hex);
      return absl::NotFoundError(absl::StrCat(
          "model card ", info.model_card_digest_hex, " of rank ", info.rank,
          " of model \"", info.model, "\" has not been put"));
    }
  }
  Model& model = models_[info.model];
  if (publishes) {
    EnterEpoch(model, info);
    if (info.rejoins) DescribeReturn(model, info);
    const RankSlot& slot = model.current->ranks[info.rank];
    if (!slot.worker_id.empty()) {
      DropRegistration(
          slot.worker_id,
          absl::StrCat("process ", info.process_id, " registered rank ",
                       info.rank, " before it had attached"));
    }
  }

  Worker worker;
  worker.record.generation = NextNumber();
  worker.record.worker_id = absl::StrCat("w", worker.record.generation);
  worker.record.info = info;
  worker.record.info.rejoins = false;
  worker.binding = binding;
  worker.attach_by = now + options_.attach_within;
  const Registration registration{worker.record.worker_id,
                                  worker.record.generation};
  attach_expiries_.emplace(worker.attach_by, registration.worker_id);
  if (publishes) {
    model.current->ranks[info.rank].worker_id = registration.worker_id;
  }
  if (info.role == Role::kCopy) model.copies.insert(registration.worker_id);
  ++model.workers;
  const auto added =
      workers_.emplace(registration.worker_id, std::move(worker));
  TellWorker(EventKind::kWorkerRegistered, added.first->second);
  return registration;
}

absl::Status CatalogState::Attach(const std::string& worker_id,
                                  const Holder& holder) {
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return UnknownWorker(worker_id);
  Worker& worker = found->second;
  if (worker.life == Life::kDead) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker \"", worker_id,
                     "\" cannot be attached: ", worker.death_reason));
  }
  if (worker.life == Life::kAttached) {
    return absl::AlreadyExistsError(
        absl::StrCat("worker \"", worker_id, "\" is attached already"));
  }
  worker.life = Life::kAttached;
  worker.record.alive = true;
  worker.holder = holder;
  attach_expiries_.erase({worker.attach_by, worker_id});
  TellWorker(EventKind::kWorkerAttached, worker);
  if (worker.record.info.role == Role::kPublisher) {
    CountPublisher(models_[worker.record.info.model], worker.record.generation,
                   +1);
  }
  return absl::OkStatus();
}

Registration CatalogState::FindRegistration(
    const std::string& worker_id) const {
  const Worker* worker = FindWorker(worker_id);
  return worker == nullptr ? Registration{}
                           : Registration{worker_id, worker->record.generation};
}

absl::Status CatalogState::Reattach(const Registration& registration,
                                    const Holder& holder, bool only_orphan) {
  const std::string& worker_id = registration.worker_id;
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return UnknownWorker(worker_id);
  Worker& worker = found->second;
  if (worker.record.generation != registration.generation) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker \"", worker_id, "\" has generation ", worker.record.generation,
        ", not ", registration.generation));
  }
  if (worker.life == Life::kRegistered && !only_orphan) {
    return Attach(worker_id, holder);
  }
  if (worker.life != Life::kAttached) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker \"", worker_id,
                     "\" cannot be attached again: ", worker.death_reason));
  }
  if (only_orphan && !IsOrphan(worker)) {
    return absl::AlreadyExistsError(
        absl::StrCat("worker \"", worker_id, "\" is attached elsewhere"));
  }
  if (IsOrphan(worker)) attach_expiries_.erase({worker.attach_by, worker_id});
  worker.holder = holder;
  TellWorker(EventKind::kWorkerReattached, worker);
  return absl::OkStatus();
}

absl::Status CatalogState::Health(const std::string& worker_id,
                                  const Holder& holder) const {
  const Worker* worker = FindWorker(worker_id);
  if (worker == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker \"", worker_id, "\" is dead and no longer known"));
  }
  if (worker->life != Life::kAttached) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker \"", worker_id, "\" is fenced: ", worker->death_reason));
  }
  if (worker->holder == holder) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      "worker \"", worker_id, "\" is not attached through here any more"));
}

void CatalogState::Detach(const std::string& worker_id, const Holder& holder,
                          bool in_order) {
  const Worker* worker = FindWorker(worker_id);
  if (worker == nullptr || worker->life != Life::kAttached ||
      worker->holder != holder) {
    return;
  }
  Kill(worker_id, DescribeEnd(worker->record.info, in_order));
}

void CatalogState::Orphan(const std::string& worker_id, const Holder& holder,
                          TimePoint now) {
  const auto found = workers_.find(worker_id);
  if (found == workers_.end() || found->second.life != Life::kAttached ||
      found->second.holder != holder || holder.server.empty()) {
    return;
  }
  MakeOrphan(found->second, now);
}

void CatalogState::OrphanAllOf(const std::string& server, TimePoint now) {
  for (auto& [worker_id, worker] : workers_) {
    if (worker.life == Life::kAttached && !server.empty() &&
        worker.holder.server == server) {
      MakeOrphan(worker, now);
    }
  }
}

void CatalogState::MakeOrphan(Worker& worker, TimePoint now) {
  worker.holder = {};
  worker.attach_by = now + options_.attach_within;
  attach_expiries_.emplace(worker.attach_by, worker.record.worker_id);
  TellWorker(EventKind::kWorkerOrphaned, worker);
}

void CatalogState::ReleaseBlobs(const WorkerInfo& info) {
  placements_.RemoveUser(info.placement_digest_hex);
  if (!info.model_card_digest_hex.empty()) {
    placements_.RemoveUser(info.model_card_digest_hex);
  }
}

bool CatalogState::IsUnattached(const RankSlot& slot) const {
  const Worker* worker = FindWorker(slot.worker_id);
  return worker != nullptr && worker->life == Life::kRegistered;
}

void CatalogState::DropRegistration(const std::string& id,
                                    const std::string& reason) {
  // `id` may lie in what is dropped: from here on it is the key of `found`.
  const auto found = workers_.find(id);
  const WorkerInfo& info = found->second.record.info;
  TellWorker(EventKind::kWorkerDropped, found->second, reason);
  Model& model = models_[info.model];
  if (info.role == Role::kPublisher) {
    model.current->ranks[info.rank].worker_id.clear();
  }
  model.copies.erase(found->first);
  CountOut(model);
  if (IsSource(info)) ReleaseBlobs(info);
  attach_expiries_.erase({found->second.attach_by, found->first});
  workers_.erase(found);
}

void CatalogState::Kill(const std::string& worker_id, const std::string& reason,
                        EventKind kind) {
  Worker& worker = workers_.at(worker_id);
  Model& model = models_[worker.record.info.model];
  attach_expiries_.erase({worker.attach_by, worker_id});
  worker.life = Life::kDead;
  worker.holder = {};
  worker.record.alive = false;
  worker.death_reason = reason;
  TellWorker(kind, worker, reason);
  worker.binding.clear();
  const std::set<std::string> leases = std::move(worker.lease_ids);
  worker.lease_ids.clear();
  for (const std::string& lease_id : leases) Revoke(lease_id, reason);
  if (worker.record.info.role == Role::kPublisher) {
    KillPublisher(model, worker, reason);
  }
  if (worker.record.info.role == Role::kCopy) {
    WithdrawCopy(model, worker, "has ended");
    model.copies.erase(worker_id);
    ReleaseBlobs(worker.record.info);
  }
  CountOut(model);
  Bury(model, worker_id);
}

void CatalogState::CountOut(Model& model) {
  if (--model.workers == 0) model.idle_since = next_event_;
}

void CatalogState::KillPublisher(Model& model, const Worker& worker,
                                 const std::string& reason) {
  const int64_t rank = worker.record.info.rank;
  RankSlot& slot = model.current->ranks[rank];
  slot.worker_id.clear();
  if (slot.last_step) {
    std::optional<uint64_t>& newest = model.known_runs.back().newest_step;
    newest = std::max(newest.value_or(0), *slot.last_step);
  }
  ReleaseBlobs(worker.record.info);
  LoseShards(model, worker, reason);
  CountPublisher(model, worker.record.generation, -1);
}

void CatalogState::Bury(Model& model, const std::string& worker_id) {
  model.dead.push_back(worker_id);
  if (model.dead.size() > options_.dead_workers_kept) {
    workers_.erase(model.dead.front());
    model.dead.pop_front();
  }
}

std::vector<WorkerRecord> CatalogState::ListWorkers(
    const std::string& model_name) const {
  std::vector<WorkerRecord> records;
  for (const auto& [id, worker] : workers_) {
    if (model_name.empty() || worker.record.info.model == model_name) {
      records.push_back(worker.record);
      records.back().death_reason = worker.death_reason;
      if (worker.life == Life::kAttached && IsSource(worker.record.info)) {
        records.back().holds =
            HeldVersion(models_.at(worker.record.info.model), worker);
      }
    }
  }
  std::sort(records.begin(), records.end(),
            [](const WorkerRecord& a, const WorkerRecord& b) {
              return std::tie(a.info.model, a.info.rank, a.generation) <
                     std::tie(b.info.model, b.info.rank, b.generation);
            });
  return records;
}

void CatalogState::RaiseNumbers(uint64_t at_least) {
  next_number_ = std::max(next_number_, at_least);
  // The first of all, before any event.
  if (event_log_id_ == options_.first_number) event_log_id_ = next_number_;
}

void CatalogState::Expire(TimePoint now) {
  while (!attach_expiries_.empty() && attach_expiries_.begin()->first <= now) {
    const std::string worker_id = attach_expiries_.begin()->second;
    const Worker& worker = workers_.at(worker_id);
    if (worker.life == Life::kRegistered) {
      DropRegistration(worker_id, "it did not attach in time");
      continue;
    }
    Kill(worker_id,
         absl::StrCat(std::string(ToString(worker.record.info.role)), " rank ",
                      worker.record.info.rank,
                      " lost its catalog server and did not attach again "
                      "within ",
                      std::chrono::duration_cast<std::chrono::seconds>(
                          options_.attach_within)
                          .count(),
                      " s"));
  }
  while (!lease_expiries_.empty() && lease_expiries_.begin()->first <= now) {
    const std::string lease_id = lease_expiries_.begin()->second;
    Revoke(lease_id,
           absl::StrCat("it was neither released nor renewed within ",
                        std::chrono::duration_cast<std::chrono::seconds>(
                            options_.lease_duration)
                            .count(),
                        " s"));
  }
}

std::optional<CatalogState::TimePoint> CatalogState::NextExpiry() const {
  std::optional<TimePoint> next;
  for (const auto* expiries : {&attach_expiries_, &lease_expiries_}) {
    if (expiries->empty()) continue;
    const TimePoint first = expiries->begin()->first;
    next = next ? std::min(*next, first) : first;
  }
  return next;
}

}  // namespace weft::catalog
