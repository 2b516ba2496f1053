// A CatalogState as bytes. What follows from the rest (who uses a placement,
// the leases of a version) is not written but found again.
#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "weft/base/byte_codec.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"
#include "weft/catalog/state/field_codec.h"

namespace weft::catalog {
namespace {

using TimePoint = CatalogState::TimePoint;

int64_t Nanoseconds(TimePoint time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

TimePoint ReadTime(base::ByteReader& reader) {
  const int64_t ns = reader.I64();
  if (ns < 0 || ns > kLastTimeNs) reader.Fail();
  return TimePoint(std::chrono::nanoseconds(reader.ok() ? ns : 0));
}

void Write(const std::optional<uint64_t>& number, base::ByteWriter& writer) {
  writer.U8(number ? 1 : 0);
  writer.U64(number.value_or(0));
}

std::optional<uint64_t> ReadOptional(base::ByteReader& reader) {
  const bool has_value = ReadFlag(reader);
  const uint64_t value = reader.U64();
  return has_value ? std::optional(value) : std::nullopt;
}

std::string ReadString(base::ByteReader& reader) {
  return std::string(reader.Bytes());
}

void WriteCount(std::size_t count, base::ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(count));
}

}  // namespace

class StateWriter {
 public:
  StateWriter(const CatalogState& state, base::ByteWriter& writer)
      : state_(state), out_(writer) {}

  void WriteAll() {
    out_.U64(state_.next_number_);
    out_.U64(state_.event_log_id_);
    out_.U64(state_.next_event_);
    WriteWorkers();
    WriteCount(state_.models_.size(), out_);
    for (const auto& [name, model] : state_.models_) {
      out_.Bytes(name);
      WriteModel(model);
    }
    WriteLeases();
    const auto placements = state_.placements_.List();
    WriteCount(placements.size(), out_);
    for (const auto& placement : placements) {
      out_.Bytes(placement.digest_hex);
      out_.Bytes(placement.place);
      out_.I64(placement.byte_count);
    }
  }

 private:
  void WriteWorkers() {
    WriteCount(state_.workers_.size(), out_);
    for (const auto& [id, worker] : state_.workers_) {
      out_.Bytes(id);
      out_.U64(worker.record.generation);
      Write(worker.record.info, out_);
      out_.Bytes(worker.record.fenced_reason);
      Write(worker.record.committed, out_);
      out_.Bytes(worker.binding);
      out_.U8(static_cast<uint8_t>(worker.life));
      out_.Bytes(worker.holder.server);
      out_.U64(worker.holder.token);
      out_.I64(Nanoseconds(worker.attach_by));
      Write(worker.last_step, out_);
      out_.Bytes(worker.death_reason);
    }
  }

  void WriteModel(const CatalogState::Model& model) {
    out_.U64(model.idle_since);
    out_.U8(model.current ? 1 : 0);
    if (model.current) WriteEpoch(*model.current);
    WriteCount(model.versions.size(), out_);
    for (const auto& [id, version] : model.versions) {
      Write(id, out_);
      out_.U8(static_cast<uint8_t>(version.record.state));
      out_.Bytes(version.record.reason);
      out_.I64(version.record.ranks_expected);
      out_.U64(version.record.source_set);
      Write(version.record.labels, out_);
      WriteCount(version.ranks.size(), out_);
      for (const int64_t rank : version.ranks) out_.I64(rank);
      WriteCount(version.lost_ranks.size(), out_);
      for (const auto& [rank, shard_key] : version.lost_ranks) {
        out_.I64(rank);
        out_.Bytes(shard_key);
      }
      WriteCount(version.copies.size(), out_);
      for (const std::string& copy : version.copies) out_.Bytes(copy);
    }
    WriteCount(model.gone.size(), out_);
    for (const VersionId& id : model.gone) Write(id, out_);
    WriteCount(model.dead.size(), out_);
    for (const std::string& id : model.dead) out_.Bytes(id);
    WriteCount(model.known_runs.size(), out_);
    for (const auto& run : model.known_runs) {
      out_.Bytes(run.run_id);
      out_.U64(run.epoch);
      Write(run.newest_step, out_);
    }
  }

  void WriteEpoch(const CatalogState::Epoch& epoch) {
    out_.Bytes(epoch.run_id);
    out_.U64(epoch.epoch);
    out_.Bytes(epoch.layout_spec);
    Write(epoch.labels, out_);
    out_.I64(epoch.num_ranks);
    out_.U64(epoch.source_set);
    WriteCount(epoch.ranks.size(), out_);
    for (const auto& [rank, slot] : epoch.ranks) {
      out_.I64(rank);
      out_.Bytes(slot.worker_id);
      Write(slot.last_step, out_);
    }
    Write(epoch.floor_step, out_);
    Write(epoch.gone_step, out_);
  }

  void WriteLeases() {
    WriteCount(state_.leases_.size(), out_);
    for (const auto& [id, lease] : state_.leases_) {
      out_.Bytes(id);
      out_.Bytes(lease.worker_id);
      out_.Bytes(lease.key.model);
      Write(lease.key.version, out_);
      out_.I64(Nanoseconds(lease.expiry));
    }
    WriteCount(state_.revoked_order_.size(), out_);
    for (const std::string& id : state_.revoked_order_) {
      const auto& revoked = state_.revoked_.at(id);
      out_.Bytes(id);
      out_.Bytes(revoked.worker_id);
      out_.Bytes(revoked.reason);
    }
  }

  const CatalogState& state_;
  base::ByteWriter& out_;
};

class StateReader {
 public:
  StateReader(CatalogState& state, base::ByteReader& reader)
      : state_(state), in_(reader) {}

  void ReadAll() {
    state_.next_number_ = in_.U64();
    state_.event_log_id_ = in_.U64();
    state_.next_event_ = in_.U64();
    if (state_.next_event_ == 0) in_.Fail();
    ReadWorkers();
    const std::size_t models = in_.Count(29);
    for (std::size_t i = 0; i < models && in_.ok(); ++i) {
      const std::string name = ReadString(in_);
      ReadModel(name, state_.models_[name]);
    }
    ReadLeases();
    ReadPlacements();
  }

 private:
  void ReadWorkers() {
    const std::size_t workers = in_.Count(100);
    for (std::size_t i = 0; i < workers && in_.ok(); ++i) {
      const std::string id = ReadString(in_);
      CatalogState::Worker& worker = state_.workers_[id];
      worker.record.worker_id = id;
      worker.record.generation = in_.U64();
      worker.record.info = ReadWorkerInfo(in_);
      worker.record.fenced_reason = ReadString(in_);
      worker.record.committed = ReadVersionId(in_);
      worker.binding = ReadString(in_);
      const uint8_t life = in_.U8();
      if (life > static_cast<uint8_t>(CatalogState::Life::kDead)) in_.Fail();
      worker.life = static_cast<CatalogState::Life>(life);
      worker.record.alive = worker.life == CatalogState::Life::kAttached;
      worker.holder.server = ReadString(in_);
      worker.holder.token = in_.U64();
      worker.attach_by = ReadTime(in_);
      worker.last_step = ReadOptional(in_);
      worker.death_reason = ReadString(in_);
      if (worker.life != CatalogState::Life::kDead) {
        CatalogState::Model& model = state_.models_[worker.record.info.model];
        ++model.workers;
        if (worker.record.info.role == Role::kCopy) model.copies.insert(id);
      }
      if (worker.life == CatalogState::Life::kRegistered ||
          CatalogState::IsOrphan(worker)) {
        state_.attach_expiries_.emplace(worker.attach_by, id);
      }
    }
  }

  void ReadModel(const std::string& name, CatalogState::Model& model) {
    model.idle_since = in_.U64();
    if (ReadFlag(in_)) {
      model.current = CatalogState::Epoch();
      ReadEpoch(*model.current);
    }
    const std::size_t versions = in_.Count(57);
    for (std::size_t i = 0; i < versions && in_.ok(); ++i) {
      const VersionId id = ReadVersionId(in_);
      CatalogState::Version& version = model.versions[id];
      VersionRecord& record = version.record;
      record.model = name;
      record.version = id;
      const uint8_t state = in_.U8();
      if (state < 1 || state > static_cast<uint8_t>(VersionState::kGone)) {
        in_.Fail();
      }
      record.state = static_cast<VersionState>(state);
      record.reason = ReadString(in_);
      record.ranks_expected = in_.I64();
      record.source_set = in_.U64();
      record.labels = ReadLabels(in_);
      const std::size_t ranks = in_.Count(8);
      for (std::size_t r = 0; r < ranks; ++r) version.ranks.insert(in_.I64());
      record.ranks_published = static_cast<int64_t>(version.ranks.size());
      const std::size_t lost = in_.Count(12);
      for (std::size_t r = 0; r < lost; ++r) {
        const int64_t rank = in_.I64();
        version.lost_ranks.emplace(rank, ReadString(in_));
      }
      const std::size_t copies = in_.Count(4);
      for (std::size_t r = 0; r < copies; ++r) {
        version.copies.insert(ReadString(in_));
      }
    }
    const std::size_t gone = in_.Count(20);
    for (std::size_t i = 0; i < gone; ++i) {
      model.gone.push_back(ReadVersionId(in_));
    }
    const std::size_t dead = in_.Count(4);
    for (std::size_t i = 0; i < dead; ++i) {
      model.dead.push_back(ReadString(in_));
    }
    const std::size_t runs = in_.Count(21);
    for (std::size_t i = 0; i < runs; ++i) {
      CatalogState::KnownRun run;
      run.run_id = ReadString(in_);
      run.epoch = in_.U64();
      run.newest_step = ReadOptional(in_);
      model.known_runs.push_back(std::move(run));
    }
  }

  void ReadEpoch(CatalogState::Epoch& epoch) {
    epoch.run_id = ReadString(in_);
    epoch.epoch = in_.U64();
    epoch.layout_spec = ReadString(in_);
    epoch.labels = ReadLabels(in_);
    epoch.num_ranks = in_.I64();
    epoch.source_set = in_.U64();
    const std::size_t ranks = in_.Count(21);
    for (std::size_t i = 0; i < ranks; ++i) {
      CatalogState::RankSlot& slot = epoch.ranks[in_.I64()];
      slot.worker_id = ReadString(in_);
      slot.last_step = ReadOptional(in_);
    }
    epoch.floor_step = ReadOptional(in_);
    epoch.gone_step = ReadOptional(in_);
  }

  void ReadLeases() {
    const std::size_t leases = in_.Count(40);
    for (std::size_t i = 0; i < leases && in_.ok(); ++i) {
      const std::string id = ReadString(in_);
      CatalogState::LeaseState lease;
      lease.worker_id = ReadString(in_);
      lease.key.model = ReadString(in_);
      lease.key.version = ReadVersionId(in_);
      lease.expiry = ReadTime(in_);
      AddLease(id, std::move(lease));
    }
    const std::size_t revoked = in_.Count(12);
    for (std::size_t i = 0; i < revoked && in_.ok(); ++i) {
      std::string id = ReadString(in_);
      CatalogState::RevokedLease lease;
      lease.worker_id = ReadString(in_);
      lease.reason = ReadString(in_);
      if (!state_.revoked_.emplace(id, std::move(lease)).second) in_.Fail();
      state_.revoked_order_.push_back(std::move(id));
    }
  }

  void AddLease(const std::string& id, CatalogState::LeaseState lease) {
    const auto worker = state_.workers_.find(lease.worker_id);
    CatalogState::Version* version = state_.FindVersion(lease.key);
    if (worker == state_.workers_.end() || version == nullptr ||
        worker->second.life != CatalogState::Life::kAttached ||
        version->record.state == VersionState::kGone ||
        state_.leases_.contains(id)) {
      return in_.Fail();
    }
    worker->second.lease_ids.insert(id);
    version->lease_ids.insert(id);
    ++version->record.leases;
    state_.lease_expiries_.emplace(lease.expiry, id);
    state_.leases_.emplace(id, std::move(lease));
  }

  // Those that a living source uses must be there.
  void ReadPlacements() {
    std::map<std::string, int64_t> users;
    for (const auto& [id, worker] : state_.workers_) {
      const WorkerInfo& info = worker.record.info;
      if (!CatalogState::IsSource(info) ||
          worker.life == CatalogState::Life::kDead) {
        continue;
      }
      ++users[info.placement_digest_hex];
      if (!info.model_card_digest_hex.empty()) {
        ++users[info.model_card_digest_hex];
      }
    }
    const std::size_t placements = in_.Count(16);
    for (std::size_t i = 0; i < placements && in_.ok(); ++i) {
      PlacementIndex::Placement placement;
      placement.digest_hex = ReadString(in_);
      placement.place = ReadString(in_);
      placement.byte_count = in_.I64();
      if (placement.byte_count < 0 ||
          placement.byte_count > kMaxPlacementBytes) {
        in_.Fail();
        break;
      }
      const auto used = users.find(placement.digest_hex);
      const int64_t count = used == users.end() ? 0 : used->second;
      if (!state_.placements_.Restore(placement, count)) in_.Fail();
      if (used != users.end()) users.erase(used);
    }
    if (!users.empty()) in_.Fail();
  }

  CatalogState& state_;
  base::ByteReader& in_;
};

void CatalogState::Encode(base::ByteWriter& writer) const {
  StateWriter(*this, writer).WriteAll();
}

absl::Status CatalogState::Decode(base::ByteReader& reader) {
  StateReader(*this, reader).ReadAll();
  if (!reader.ok()) {
    return absl::DataLossError("catalog snapshot is truncated or malformed");
  }
  return CheckWhole();
}

absl::Status CatalogState::CheckWhole() const {
  for (const auto& [name, model] : models_) {
    if (!IsWholeModel(name, model)) {
      return absl::DataLossError(
          "catalog snapshot contradicts itself about model \"" +
          CleanReason(name.substr(0, kMaxNameBytes)) + "\"");
    }
  }
  for (const auto& [id, worker] : workers_) {
    if (!IsWholeWorker(worker)) {
      return absl::DataLossError(
          "catalog snapshot contradicts itself about worker \"" +
          CleanReason(id.substr(0, kMaxNameBytes)) + "\"");
    }
  }
  for (const auto& [id, lease] : leases_) {
    const WorkerInfo& info = workers_.at(lease.worker_id).record.info;
    if (info.role != Role::kReceiver || info.model != lease.key.model) {
      return absl::DataLossError("catalog snapshot has a lease of a stranger");
    }
  }
  return absl::OkStatus();
}

bool CatalogState::IsWholeWorker(const Worker& worker) const {
  const WorkerInfo& info = worker.record.info;
  const auto model = models_.find(info.model);
  if (!CheckWorkerInfo(info).ok() || model == models_.end()) return false;
  const auto& dead = model->second.dead;
  if (worker.life == Life::kDead) {
    return std::count(dead.begin(), dead.end(), worker.record.worker_id) == 1;
  }
  if (info.role == Role::kReceiver) return true;
  const auto& current = model->second.current;
  if (!current || current->run_id != info.run_id ||
      current->epoch != info.epoch) {
    return false;
  }
  if (info.role == Role::kCopy) return true;
  const auto slot = current->ranks.find(info.rank);
  return slot != current->ranks.end() &&
         slot->second.worker_id == worker.record.worker_id;
}

// What is held is held by sources that live.
bool CatalogState::IsWholeVersion(const std::string& name, const Model& model,
                                  const Version& version) const {
  if (version.record.state == VersionState::kGone) {
    return version.copies.empty();
  }
  return std::all_of(version.lost_ranks.begin(), version.lost_ranks.end(),
                     [&](const auto& lost) {
                       return version.ranks.contains(lost.first);
                     }) &&
         std::all_of(
             version.ranks.begin(), version.ranks.end(),
             [&](int64_t rank) {
               return !version.HeldBy(rank) ||
                      (model.current && model.current->ranks.contains(rank));
             }) &&
         std::all_of(version.copies.begin(), version.copies.end(),
                     [&](const std::string& id) {
                       const Worker* copy = FindWorker(id);
                       return copy != nullptr &&
                              copy->record.info.role == Role::kCopy &&
                              copy->record.info.model == name &&
                              copy->life == Life::kAttached;
                     });
}

bool CatalogState::IsWholeModel(const std::string& name,
                                const Model& model) const {
  if (model.current) {
    if (model.known_runs.empty() ||
        model.known_runs.back().run_id != model.current->run_id) {
      return false;
    }
    for (const auto& [rank, slot] : model.current->ranks) {
      if (slot.worker_id.empty()) continue;
      const Worker* worker = FindWorker(slot.worker_id);
      if (worker == nullptr || worker->life == Life::kDead ||
          worker->record.info.model != name ||
          worker->record.info.role != Role::kPublisher ||
          worker->record.info.rank != rank) {
        return false;
      }
    }
  }
  std::set<VersionId> gone(model.gone.begin(), model.gone.end());
  if (gone.size() != model.gone.size()) return false;
  for (const auto& [id, version] : model.versions) {
    const bool is_gone = version.record.state == VersionState::kGone;
    if (is_gone != (gone.erase(id) == 1)) return false;
    if (!IsWholeVersion(name, model, version)) return false;
  }
  return gone.empty() && std::all_of(model.dead.begin(), model.dead.end(),
                                     [&](const std::string& id) {
                                       const Worker* worker = FindWorker(id);
                                       return worker != nullptr &&
                                              worker->life == Life::kDead &&
                                              worker->record.info.model == name;
                                     });
}

}  // namespace weft::catalog
