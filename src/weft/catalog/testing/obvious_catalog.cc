#include "weft/catalog/testing/obvious_catalog.h"

#include <algorithm>

namespace weft::catalog::testing {

using ::absl::StatusCode;

bool ObviousCatalog::IsCurrent(const Worker& worker) const {
  return worker.info.role == Role::kPublisher &&
         worker.info.run_id == run_id_ && worker.info.epoch == epoch_ &&
         worker.life != Worker::kDead;
}

StatusCode ObviousCatalog::Register(const WorkerInfo& info) {
  if (info.role == Role::kCopy &&
      (info.run_id != run_id_ || info.epoch != epoch_)) {
    return StatusCode::kFailedPrecondition;
  }
  if (info.role == Role::kPublisher) {
    if (info.rejoins && !run_id_.empty() && info.run_id != run_id_) {
      return StatusCode::kFailedPrecondition;
    }
    for (const Worker& worker : workers_) {
      if (worker.info.role == Role::kPublisher &&
          worker.info.run_id == info.run_id && worker.info.epoch > info.epoch) {
        return StatusCode::kFailedPrecondition;
      }
    }
    const bool enters = info.run_id != run_id_ || info.epoch != epoch_;
    for (size_t i = 0; enters && i < versions_.size(); ++i) {
      if (versions_[i].state != VersionState::kGone) Withdraw(i);
    }
    std::optional<size_t> replaced;  // registered, and not attached yet
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (!IsCurrent(workers_[i])) continue;
      if (enters) {
        Die(i);
      } else if (workers_[i].info.rank == info.rank) {
        if (workers_[i].life == Worker::kAttached) {
          return StatusCode::kAlreadyExists;
        }
        replaced = i;
      }
    }
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (!enters && IsCurrent(workers_[i]) && i != replaced &&
          workers_[i].info.num_ranks != info.num_ranks) {
        return StatusCode::kInvalidArgument;
      }
    }
    if (replaced) {
      Die(*replaced);
      workers_[*replaced].dropped = true;
    }
    for (size_t i = 0; enters && i < workers_.size(); ++i) {
      if (workers_[i].info.role == Role::kCopy) Die(i);
    }
    if (enters) entered_at_ = workers_.size();
    run_id_ = info.run_id;
    epoch_ = info.epoch;
  }
  workers_.emplace_back().info = info;
  return StatusCode::kOk;
}

StatusCode ObviousCatalog::Attach(size_t worker) {
  switch (workers_[worker].life) {
    case Worker::kDead:
      return workers_[worker].dropped ? StatusCode::kNotFound
                                      : StatusCode::kFailedPrecondition;
    case Worker::kAttached:
      return StatusCode::kAlreadyExists;
    case Worker::kRegistered:
      workers_[worker].life = Worker::kAttached;
      return StatusCode::kOk;
  }
  return StatusCode::kInternal;
}

void ObviousCatalog::Die(size_t worker) {
  if (workers_[worker].life == Worker::kDead) return;
  workers_[worker].life = Worker::kDead;
  for (Lease& lease : leases_) {
    if (lease.worker == worker && lease.life == Lease::kHeld) {
      lease.life = Lease::kRevoked;
    }
  }
  for (const size_t version : HeldVersions(workers_[worker])) {
    if (versions_[version].state != VersionState::kReady) Withdraw(version);
  }
  workers_[worker].copy_of.reset();
  Settle();
}

void ObviousCatalog::Settle() {
  for (size_t i = 0; i < versions_.size(); ++i) {
    const Version& version = versions_[i];
    const bool lost =
        version.state == VersionState::kReady &&
        !std::all_of(version.ranks.begin(), version.ranks.end(),
                     [&](int64_t rank) { return IsHeld(version, rank); });
    const bool left =
        version.state == VersionState::kRetiring && LeasesOf(i) == 0;
    if (lost || left) Withdraw(i);
  }
}

bool ObviousCatalog::IsHeld(const Version& version, int64_t rank) const {
  const auto has = [&](const Worker& each) {
    return each.info.role == Role::kPublisher &&
           each.info.run_id == version.id.run_id &&
           each.info.epoch == version.id.epoch &&
           std::count(each.steps.begin(), each.steps.end(), version.id.step) >
               0;
  };
  const auto publisher = std::find_if(
      workers_.begin(), workers_.end(),
      [&](const Worker& each) { return has(each) && each.info.rank == rank; });
  if (publisher == workers_.end()) return false;
  if (publisher->life == Worker::kAttached) return true;
  const std::string& key = publisher->info.shard_key;
  return !key.empty() &&
         std::any_of(workers_.begin(), workers_.end(), [&](const Worker& each) {
           if (each.life != Worker::kAttached) return false;
           return (has(each) && each.info.shard_key == key) ||
                  (each.copy_of == version.id &&
                   std::count(each.info.held_shards.begin(),
                              each.info.held_shards.end(), key) > 0);
         });
}

int64_t ObviousCatalog::RevokeLeases(size_t version) {
  int64_t revoked = 0;
  for (Lease& lease : leases_) {
    if (lease.version == version && lease.life == Lease::kHeld) {
      lease.life = Lease::kRevoked;
      ++revoked;
    }
  }
  return revoked;
}

void ObviousCatalog::Withdraw(size_t version) {
  versions_[version].state = VersionState::kGone;
  versions_[version].gone_at = gone_++;
  RevokeLeases(version);
}

std::vector<size_t> ObviousCatalog::HeldVersions(const Worker& worker) const {
  std::vector<size_t> held;
  for (size_t i = 0; i < versions_.size(); ++i) {
    if (versions_[i].state != VersionState::kGone &&
        versions_[i].id.run_id == worker.info.run_id &&
        versions_[i].id.epoch == worker.info.epoch &&
        std::count(worker.steps.begin(), worker.steps.end(),
                   versions_[i].id.step) > 0) {
      held.push_back(i);
    }
  }
  return held;
}

void ObviousCatalog::WithdrawHeld(const Worker& worker) {
  for (const size_t version : HeldVersions(worker)) Withdraw(version);
}

std::optional<StatusCode> ObviousCatalog::CheckAttached(size_t worker,
                                                        Role role) const {
  if (workers_[worker].dropped) return StatusCode::kNotFound;
  if (workers_[worker].info.role != role) return StatusCode::kInvalidArgument;
  if (workers_[worker].life != Worker::kAttached) {
    return StatusCode::kFailedPrecondition;
  }
  return std::nullopt;
}

StatusCode ObviousCatalog::Publish(size_t publisher, uint64_t step) {
  Worker& worker = workers_[publisher];
  const bool copies = worker.info.role == Role::kCopy;
  if (const auto wrong =
          CheckAttached(publisher, copies ? Role::kCopy : Role::kPublisher)) {
    return *wrong;
  }
  if (copies) return PublishCopy(worker, {run_id_, epoch_, step});
  // What this rank has published since its epoch was entered counts; if it has
  // not, what any rank published in a former time of that epoch.
  std::optional<uint64_t> own;
  std::optional<uint64_t> former;
  for (size_t i = 0; i < workers_.size(); ++i) {
    const WorkerInfo& info = workers_[i].info;
    if (info.run_id != run_id_ || info.epoch != epoch_) continue;
    for (const uint64_t published : workers_[i].steps) {
      if (i < entered_at_) {
        former = std::max(former.value_or(0), published);
      } else if (info.rank == worker.info.rank) {
        own = std::max(own.value_or(0), published);
      }
    }
  }
  const std::optional<uint64_t> last = own ? own : former;
  if (last && step <= *last) return StatusCode::kFailedPrecondition;
  WithdrawHeld(worker);
  worker.steps.push_back(step);

  const VersionId id{run_id_, epoch_, step};
  for (Version& version : versions_) {
    if (version.id != id) continue;
    if (version.state == VersionState::kGone) return StatusCode::kOk;
    version.ranks.insert(worker.info.rank);
    if (static_cast<int64_t>(version.ranks.size()) == version.num_ranks) {
      MakeReady(version);
    }
    return StatusCode::kOk;
  }
  const bool too_late = std::any_of(
      versions_.begin(), versions_.end(), [&](const Version& version) {
        return version.state == VersionState::kGone &&
               version.id.run_id == run_id_ && version.id.epoch == epoch_ &&
               version.id.step > step;
      });
  if (too_late) return StatusCode::kOk;
  versions_.push_back({.id = id,
                       .ranks = {worker.info.rank},
                       .num_ranks = worker.info.num_ranks});
  if (worker.info.num_ranks == 1) MakeReady(versions_.back());
  return StatusCode::kOk;
}

void ObviousCatalog::MakeReady(Version& version) {
  for (Version& older : versions_) {
    if (older.state == VersionState::kReady) {
      older.state = VersionState::kRetiring;
    }
  }
  Settle();
  version.state = VersionState::kReady;
}

StatusCode ObviousCatalog::PublishCopy(Worker& worker, const VersionId& id) {
  for (const Version& version : versions_) {
    if (version.id != id || version.state != VersionState::kReady) continue;
    worker.copy_of = id;
    Settle();
    return StatusCode::kOk;
  }
  return StatusCode::kFailedPrecondition;
}

StatusCode ObviousCatalog::Update(size_t publisher, int64_t& revoked) {
  revoked = 0;
  Worker& worker = workers_[publisher];
  const bool copies = worker.info.role == Role::kCopy;
  if (const auto wrong =
          CheckAttached(publisher, copies ? Role::kCopy : Role::kPublisher)) {
    return *wrong;
  }
  worker.copy_of.reset();
  for (const size_t version : HeldVersions(worker)) {
    revoked += RevokeLeases(version);
  }
  WithdrawHeld(worker);
  Settle();
  return StatusCode::kOk;
}

StatusCode ObviousCatalog::Acquire(size_t worker, const VersionId& id) {
  if (const auto wrong = CheckAttached(worker, Role::kReceiver)) return *wrong;
  for (size_t i = 0; i < versions_.size(); ++i) {
    if (versions_[i].id != id) continue;
    if (versions_[i].state != VersionState::kReady) {
      return StatusCode::kFailedPrecondition;
    }
    leases_.push_back({.worker = worker, .version = i});
    return StatusCode::kOk;
  }
  return StatusCode::kNotFound;
}

StatusCode ObviousCatalog::Release(size_t lease_index, bool committed,
                                   const std::string& fenced_reason) {
  Lease& lease = leases_[lease_index];
  if (lease.life == Lease::kReleased) return StatusCode::kNotFound;
  Worker& worker = workers_[lease.worker];
  if (!fenced_reason.empty()) worker.fenced_reason = fenced_reason;
  if (lease.life == Lease::kRevoked) return StatusCode::kFailedPrecondition;
  lease.life = Lease::kReleased;
  Settle();
  if (committed) {
    worker.committed = versions_[lease.version].id;
    worker.fenced_reason.clear();
  }
  return StatusCode::kOk;
}

int64_t ObviousCatalog::LeasesOf(size_t version) const {
  return std::count_if(leases_.begin(), leases_.end(), [&](const Lease& lease) {
    return lease.version == version && lease.life == Lease::kHeld;
  });
}

std::optional<VersionId> ObviousCatalog::HeldBy(size_t worker) const {
  const Worker& source = workers_[worker];
  const std::vector<size_t> held = HeldVersions(source);
  if (!held.empty()) return versions_[held.back()].id;
  for (const Version& version : versions_) {
    if (source.copy_of == version.id && version.state != VersionState::kGone) {
      return version.id;
    }
  }
  return std::nullopt;
}

std::vector<size_t> ObviousCatalog::Sources() const {
  std::vector<size_t> sources;
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (IsCurrent(workers_[i]) && workers_[i].life == Worker::kAttached) {
      sources.push_back(i);
    }
  }
  std::sort(sources.begin(), sources.end(), [&](size_t a, size_t b) {
    return workers_[a].info.rank < workers_[b].info.rank;
  });
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].info.role == Role::kCopy &&
        workers_[i].life == Worker::kAttached && HeldBy(i).has_value()) {
      sources.push_back(i);
    }
  }
  return sources;
}

}  // namespace weft::catalog::testing
