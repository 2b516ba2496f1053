// What is told of each change.
#include <string>
#include <string_view>
#include <utility>

#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"

namespace weft::catalog {

Event& CatalogState::NewEvent(EventKind kind, const std::string& model,
                              std::string_view reason) {
  Event& event = events_.emplace_back();
  event.number = next_event_++;
  event.unix_ns = event_time_ns_;
  event.kind = kind;
  event.model = model;
  event.reason = std::string(reason.substr(0, kMaxEventReasonBytes));
  return event;
}

Event& CatalogState::TellWorker(EventKind kind, const Worker& worker,
                                std::string_view reason) {
  const WorkerRecord& record = worker.record;
  Event& event = NewEvent(kind, record.info.model, reason);
  event.worker_id = record.worker_id;
  event.generation = record.generation;
  event.role = record.info.role;
  event.rank = record.info.rank;
  if (record.info.role == Role::kPublisher) {
    event.version = {record.info.run_id, record.info.epoch, 0};
    event.ranks_expected = record.info.num_ranks;
  }
  return event;
}

void CatalogState::TellShard(EventKind kind, const Worker& worker,
                             const VersionRecord& record) {
  Event& event = TellWorker(kind, worker);
  event.version = record.version;
  event.ranks_published = record.ranks_published;
  event.ranks_expected = record.ranks_expected;
}

void CatalogState::TellVersion(EventKind kind, const VersionRecord& record,
                               const Worker* by) {
  Event& event = by == nullptr ? NewEvent(kind, record.model, record.reason)
                               : TellWorker(kind, *by, record.reason);
  event.version = record.version;
  event.ranks_published = record.ranks_published;
  event.ranks_expected = record.ranks_expected;
}

void CatalogState::TellLease(EventKind kind, const std::string& lease_id,
                             const std::string& worker_id,
                             const VersionKey* key, std::string_view reason) {
  const auto worker = workers_.find(worker_id);
  Event& event = worker == workers_.end()
                     ? NewEvent(kind, key == nullptr ? "" : key->model, reason)
                     : TellWorker(kind, worker->second, reason);
  event.worker_id = worker_id;
  event.lease_id = lease_id;
  event.version = key == nullptr ? VersionId() : key->version;
}

}  // namespace weft::catalog
