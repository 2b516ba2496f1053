// Who holds what: replicas among publishers, copies, sources for receivers.
#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"

namespace weft::catalog {
namespace {

// Behind why a version went with one of its publishers.
constexpr char kHealedByTheNext[] = "; the next step heals it";

std::string NameRank(const WorkerInfo& info) {
  return absl::StrCat(std::string(ToString(info.role)), " rank ", info.rank);
}

}  // namespace

absl::StatusOr<CatalogState::Worker*> CatalogState::FindSource(
    const std::string& worker_id) {
  const Worker* worker = FindWorker(worker_id);
  return FindAttached(
      worker_id, worker != nullptr && worker->record.info.role == Role::kCopy
                     ? Role::kCopy
                     : Role::kPublisher);
}

void CatalogState::CountPublisher(Model& model, uint64_t generation, int sign) {
  const uint64_t term = SourceSetTerm(generation);
  uint64_t& source_set = model.current->source_set;
  source_set = sign > 0 ? source_set + term : source_set - term;
  for (auto& [id, version] : model.versions) {
    if (version.record.state != VersionState::kStaging) continue;
    version.record.source_set = source_set;
    Emit(version.record);
  }
}

bool CatalogState::IsHeld(const Model& model, const Version& version,
                          const std::string& shard_key) const {
  if (shard_key.empty()) return false;
  const auto publishes = [&](int64_t rank) {
    if (!version.HeldBy(rank)) return false;
    const Worker* worker = FindWorker(model.current->ranks.at(rank).worker_id);
    return worker != nullptr && worker->record.info.shard_key == shard_key;
  };
  const auto copies = [&](const std::string& worker_id) {
    const auto& held = FindWorker(worker_id)->record.info.held_shards;
    return std::binary_search(held.begin(), held.end(), shard_key);
  };
  return std::any_of(version.ranks.begin(), version.ranks.end(), publishes) ||
         std::any_of(version.copies.begin(), version.copies.end(), copies);
}

void CatalogState::LoseShards(Model& model, const Worker& worker,
                              const std::string& reason) {
  const WorkerInfo& info = worker.record.info;
  std::vector<VersionId> withdrawn;
  for (auto& [id, version] : model.versions) {
    VersionRecord& record = version.record;
    if (record.state == VersionState::kGone || !version.HeldBy(info.rank)) {
      continue;
    }
    version.lost_ranks.emplace(info.rank, info.shard_key);
    if (record.state == VersionState::kReady &&
        IsHeld(model, version, info.shard_key)) {
      record.source_set -= SourceSetTerm(worker.record.generation);
      TellShard(EventKind::kShardLost, worker, record);
      Emit(record);
    } else {
      withdrawn.push_back(id);
    }
  }
  for (const VersionId& id : withdrawn) {
    Withdraw(model, id, absl::StrCat(reason, kHealedByTheNext));
  }
}

std::string CatalogState::DescribeEnd(const WorkerInfo& info, bool in_order) {
  return absl::StrCat(NameRank(info),
                      in_order ? " has ended" : " died or lost its connection");
}

void CatalogState::DescribeReturn(Model& model, const WorkerInfo& info) {
  const std::string loss =
      absl::StrCat(DescribeEnd(info, false), kHealedByTheNext);
  for (const VersionId& id : model.gone) {
    VersionRecord& record = model.versions.at(id).record;
    if (id.run_id != info.run_id || id.epoch != info.epoch ||
        record.reason != loss) {
      continue;
    }
    record.reason = absl::StrCat(
        NameRank(info), " lost its connection and is back", kHealedByTheNext);
    Emit(record);
  }
}

absl::Status CatalogState::CheckCopy(const WorkerInfo& info) const {
  const auto model = models_.find(info.model);
  if (model != models_.end() && model->second.current &&
      model->second.current->run_id == info.run_id &&
      model->second.current->epoch == info.epoch) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "a copy of epoch ", info.epoch, " of run \"", info.run_id,
      "\" cannot serve model \"", info.model, "\": ",
      model == models_.end() || !model->second.current
          ? std::string("it has no publisher")
          : absl::StrCat("epoch ", model->second.current->epoch, " of run \"",
                         model->second.current->run_id, "\" runs")));
}

absl::StatusOr<VersionRecord> CatalogState::PublishCopy(Worker& worker,
                                                        uint64_t step) {
  const WorkerInfo& info = worker.record.info;
  Model& model = models_[info.model];
  const VersionId id{info.run_id, info.epoch, step};
  const auto found = model.versions.find(id);
  if (found == model.versions.end() ||
      found->second.record.state != VersionState::kReady) {
    return absl::FailedPreconditionError(absl::StrCat(
        "version ", ToString(id), " of model \"", info.model, "\" is ",
        found == model.versions.end()
            ? std::string("not known")
            : std::string(ToString(found->second.record.state)),
        ", a copy of it cannot be served"));
  }
  VersionRecord& record = found->second.record;
  if (!found->second.copies.contains(worker.record.worker_id)) {
    WithdrawCopy(model, worker, "now holds another version");
    found->second.copies.insert(worker.record.worker_id);
    worker.last_step = step;
    record.source_set += SourceSetTerm(worker.record.generation);
    TellShard(EventKind::kCopyPublished, worker, record);
    Emit(record);
  }
  return record;
}

void CatalogState::WithdrawCopy(Model& model, const Worker& worker,
                                const std::string& reason) {
  std::vector<std::pair<VersionId, int64_t>> lost;
  for (auto& [id, version] : model.versions) {
    if (version.copies.erase(worker.record.worker_id) == 0) continue;
    version.record.source_set -= SourceSetTerm(worker.record.generation);
    TellShard(EventKind::kCopyWithdrawn, worker, version.record);
    Emit(version.record);
    if (version.record.state != VersionState::kReady) continue;
    for (const auto& [rank, shard_key] : version.lost_ranks) {
      if (IsHeld(model, version, shard_key)) continue;
      lost.emplace_back(id, rank);
      break;
    }
  }
  for (const auto& [id, rank] : lost) {
    Withdraw(
        model, id,
        absl::StrCat("publisher rank ", rank,
                     " is gone, and the last copy of what it held, ",
                     worker.record.worker_id, " of receiver rank ",
                     worker.record.info.rank, ", ", reason, kHealedByTheNext));
  }
}

void CatalogState::RetireOlder(Model& model, const VersionId& ready) {
  std::vector<VersionId> idle;
  for (auto& [id, version] : model.versions) {
    VersionRecord& record = version.record;
    if (record.state != VersionState::kReady || id == ready) continue;
    record.state = VersionState::kRetiring;
    record.reason = absl::StrCat(ToString(ready), " is READY");
    TellVersion(EventKind::kVersionRetiring, record);
    Emit(record);
    if (record.leases == 0) idle.push_back(id);
  }
  for (const VersionId& id : idle) {
    Withdraw(model, id, std::string(model.versions.at(id).record.reason));
  }
}

VersionId CatalogState::HeldVersion(const Model& model,
                                    const Worker& worker) const {
  const WorkerInfo& info = worker.record.info;
  if (!worker.last_step) return {};
  const VersionId id{info.run_id, info.epoch, *worker.last_step};
  const auto found = model.versions.find(id);
  if (found == model.versions.end() ||
      found->second.record.state == VersionState::kGone) {
    return {};
  }
  const bool holds =
      info.role == Role::kCopy
          ? found->second.copies.contains(worker.record.worker_id)
          : found->second.HeldBy(info.rank);
  return holds ? id : VersionId{};
}

SourceRecord CatalogState::ToSource(const Model& model, const Worker& worker,
                                    bool with_binding) const {
  const WorkerInfo& info = worker.record.info;
  std::vector<std::string> shard_keys;
  if (!info.shard_key.empty()) shard_keys = {info.shard_key};
  return {.rank = info.rank,
          .generation = worker.record.generation,
          .host_id = info.host_id,
          .placement_digest_hex = info.placement_digest_hex,
          .binding = with_binding ? worker.binding : std::string(),
          .role = info.role,
          .worker_id = worker.record.worker_id,
          .holds = HeldVersion(model, worker),
          .shard_keys = std::move(shard_keys)};
}

absl::StatusOr<SourceSet> CatalogState::GetSources(
    const std::string& model_name, const std::string& lease_id) const {
  const bool has_lease = !lease_id.empty();
  if (has_lease) WEFT_RETURN_IF_ERROR(CheckLease(lease_id, model_name));
  const auto found = models_.find(model_name);
  SourceSet sources;
  if (found != models_.end() && found->second.current) {
    sources.num_ranks = found->second.current->num_ranks;
    AddPublishers(found->second, has_lease, sources);
    AddCopies(found->second, has_lease, sources);
  }
  if (sources.sources.empty()) {
    return absl::NotFoundError(
        absl::StrCat("model \"", model_name, "\" has no live publisher"));
  }
  sources.source_set = SourceSetOf(sources.sources);
  return sources;
}

void CatalogState::AddPublishers(const Model& model, bool with_binding,
                                 SourceSet& sources) const {
  for (const auto& [rank, slot] : model.current->ranks) {
    const Worker* worker = FindWorker(slot.worker_id);
    if (worker == nullptr || worker->life != Life::kAttached) continue;
    if (sources.model_card_digest_hex.empty()) {
      sources.model_card_digest_hex = worker->record.info.model_card_digest_hex;
    }
    sources.sources.push_back(ToSource(model, *worker, with_binding));
  }
}

void CatalogState::AddCopies(const Model& model, bool with_binding,
                             SourceSet& sources) const {
  if (model.copies.empty()) return;
  std::set<std::string> published;
  for (const SourceRecord& publisher : sources.sources) {
    published.insert(publisher.shard_keys.begin(), publisher.shard_keys.end());
  }
  std::vector<const Worker*> copies;
  for (const std::string& worker_id : model.copies) {
    copies.push_back(FindWorker(worker_id));
  }
  std::sort(copies.begin(), copies.end(), [](const Worker* a, const Worker* b) {
    return a->record.generation < b->record.generation;
  });
  for (const Worker* copy : copies) {
    SourceRecord source = ToSource(model, *copy, with_binding);
    if (source.holds.run_id.empty()) continue;
    const WorkerInfo& info = copy->record.info;
    std::set_difference(info.held_shards.begin(), info.held_shards.end(),
                        published.begin(), published.end(),
                        std::back_inserter(source.shard_keys));
    if (sources.model_card_digest_hex.empty()) {
      sources.model_card_digest_hex = info.model_card_digest_hex;
    }
    sources.sources.push_back(std::move(source));
  }
}

}  // namespace weft::catalog
