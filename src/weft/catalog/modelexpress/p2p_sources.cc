#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/modelexpress/p2p_sources_internal.h"
#include "weft/catalog/modelexpress/source_id_internal.h"

namespace weft::catalog {
namespace {

void CheckIdentity(const mx::SourceIdentity& identity,
                   base::FaultList& faults) {
  CheckMxName("identity.model_name", identity.model_name(), faults);
  if (identity.ByteSizeLong() > kMxMaxIdentityBytes) {
    faults.Add(absl::StrCat("identity has ", identity.ByteSizeLong(),
                            " bytes, more than ", kMxMaxIdentityBytes));
  }
}

void CheckWorker(const mx::WorkerMetadata& worker, base::FaultList& faults) {
  if (!mx::SourceStatus_IsValid(worker.status())) {
    faults.Add(absl::StrCat("worker.status ", worker.status(), " is unknown"));
  }
  CheckMxText("worker.metadata_endpoint", worker.metadata_endpoint(), faults);
  CheckMxText("worker.agent_name", worker.agent_name(), faults);
  CheckMxText("worker.worker_grpc_endpoint", worker.worker_grpc_endpoint(),
              faults);
  CheckMxText("worker.accelerator", worker.accelerator(), faults);
  int64_t topology_bytes = 0;
  for (const auto& [level, place] : worker.topology()) {
    topology_bytes += static_cast<int64_t>(level.size() + place.size());
  }
  if (topology_bytes > kMxMaxTopologyBytes) {
    faults.Add(absl::StrCat("worker.topology has ", topology_bytes,
                            " bytes, more than ", kMxMaxTopologyBytes));
  }
}

absl::Status CheckPublish(const mx::PublishMetadataRequest& request) {
  base::FaultList faults;
  if (request.has_identity()) {
    CheckIdentity(request.identity(), faults);
  } else {
    faults.Add("identity is required");
  }
  if (request.has_worker()) {
    CheckWorker(request.worker(), faults);
  } else {
    faults.Add("worker is required");
  }
  CheckMxName("worker_id", request.worker_id(), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

std::optional<uint64_t> TrainingStep(const mx::SourceIdentity& identity) {
  for (const char* key : {"training_step", "version"}) {
    const auto found = identity.extra_parameters().find(key);
    uint64_t step = 0;
    if (found != identity.extra_parameters().end() &&
        absl::SimpleAtoi(found->second, &step)) {
      return step;
    }
  }
  return std::nullopt;
}

mx::SourceInstanceRef RowOf(const mx::PublishMetadataRequest& request,
                            const std::string& source_id) {
  const mx::WorkerMetadata& worker = request.worker();
  const auto& extra = request.identity().extra_parameters();
  mx::SourceInstanceRef row;
  row.set_mx_source_id(source_id);
  row.set_worker_id(request.worker_id());
  row.set_model_name(request.identity().model_name());
  row.set_worker_rank(worker.worker_rank());
  row.set_accelerator(worker.accelerator());
  *row.mutable_topology() = worker.topology();
  if (const auto step = TrainingStep(request.identity())) {
    row.set_training_step(*step);
  }
  if (const auto found = extra.find("layout_signature"); found != extra.end()) {
    row.set_layout_signature(found->second);
  }
  return row;
}

// Clients send the tensors twice, for servers before 0.5: they are kept once.
mx::WorkerMetadata TensorsOnce(mx::WorkerMetadata worker) {
  if (worker.tensors_size() > 0 &&
      worker.source_payload_case() ==
          mx::WorkerMetadata::SOURCE_PAYLOAD_NOT_SET) {
    worker.mutable_tensor_source()->mutable_tensors()->Swap(
        worker.mutable_tensors());
  }
  worker.clear_tensors();
  return worker;
}

bool Passes(const mx::ListSourcesRequest& filter,
            const mx::SourceInstanceRef& row) {
  return (!filter.has_model_name_filter() ||
          row.model_name() == filter.model_name_filter()) &&
         (!filter.has_worker_rank_filter() ||
          row.worker_rank() == filter.worker_rank_filter()) &&
         (!filter.has_min_training_step() ||
          (row.has_training_step() &&
           row.training_step() >= filter.min_training_step())) &&
         (!filter.has_min_updated_at() ||
          row.updated_at() >= filter.min_updated_at());
}

}  // namespace

int64_t ModelExpressSources::BytesOf(const Record& record) {
  return static_cast<int64_t>(record.row.ByteSizeLong() + record.worker.size() +
                              record.identity.size());
}

absl::StatusOr<std::string> ModelExpressSources::Publish(
    const mx::PublishMetadataRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckPublish(request));
  const std::string source_id = ModelExpressSourceId(request.identity());
  const Key key(source_id, request.worker_id(), request.worker().worker_rank());
  Record record;
  record.row = RowOf(request, source_id);
  record.identity = request.identity().SerializeAsString();
  record.worker = TensorsOnce(request.worker()).SerializeAsString();

  const auto old = records_.find(key);
  const int64_t freed = old == records_.end() ? 0 : BytesOf(old->second);
  const int64_t bytes = held_bytes_ - freed + BytesOf(record);
  if (old == records_.end() && count() >= limits_.max_sources) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the catalog holds ", count(), " ModelExpress sources, as many as it ",
        "may; sources that have stopped are forgotten after an hour"));
  }
  if (bytes > limits_.max_source_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "with this source of ", BytesOf(record), " bytes the catalog would ",
        "hold ", bytes, " bytes of ModelExpress sources, more than ",
        limits_.max_source_bytes));
  }
  if (old != records_.end()) Forget(key);
  Record& held = records_[key] = std::move(record);
  SetStatus(key, held, request.worker().status(), now_ms);
  held_bytes_ += BytesOf(held);
  return source_id;
}

absl::StatusOr<mx::ListSourcesResponse> ModelExpressSources::List(
    const mx::ListSourcesRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  if (request.identity().ByteSizeLong() > kMxMaxIdentityBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("identity has ", request.identity().ByteSizeLong(),
                     " bytes, more than ", kMxMaxIdentityBytes));
  }
  const bool of_one = !request.identity().model_name().empty();
  const std::string source_id =
      of_one ? ModelExpressSourceId(request.identity()) : "";
  std::vector<const mx::SourceInstanceRef*> rows;
  for (auto it = records_.lower_bound(Key(source_id, "", 0));
       it != records_.end(); ++it) {
    if (of_one && std::get<0>(it->first) != source_id) break;
    const bool status_fits = !request.has_status_filter() ||
                             it->second.status == request.status_filter();
    if (status_fits && Passes(request, it->second.row)) {
      rows.push_back(&it->second.row);
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto* a, const auto* b) {
    return a->updated_at() > b->updated_at();
  });
  if (request.has_limit() && rows.size() > request.limit()) {
    rows.resize(request.limit());
  }
  mx::ListSourcesResponse response;
  int64_t bytes = 0;
  for (const mx::SourceInstanceRef* row : rows) {
    bytes += static_cast<int64_t>(row->ByteSizeLong()) + 8;
    if (bytes > limits_.max_reply_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          rows.size(), " sources do not fit into a reply of ",
          limits_.max_reply_bytes, " bytes; ask for fewer by a limit"));
    }
    *response.add_instances() = *row;
  }
  return response;
}

mx::GetMetadataResponse ModelExpressSources::Get(
    const mx::GetMetadataRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  mx::GetMetadataResponse response;
  const auto found =
      records_.lower_bound(Key(request.mx_source_id(), request.worker_id(), 0));
  if (found == records_.end() ||
      std::get<0>(found->first) != request.mx_source_id() ||
      std::get<1>(found->first) != request.worker_id()) {
    return response;
  }
  const Record& record = found->second;
  mx::WorkerMetadata& worker = *response.mutable_worker();
  // Both are our own serialisation.
  worker.ParseFromString(record.worker);
  response.mutable_identity()->ParseFromString(record.identity);
  const size_t both = worker.ByteSizeLong() +
                      worker.tensor_source().ByteSizeLong() +
                      record.identity.size() + kMxMaxNameBytes;
  // Old clients look there; left out where a message could not hold it.
  if (both <= kMxMaxMessageBytes) {
    *worker.mutable_tensors() = worker.tensor_source().tensors();
  }
  worker.set_status(record.status);
  worker.set_updated_at(record.row.updated_at());
  response.set_found(true);
  response.set_mx_source_id(request.mx_source_id());
  response.set_worker_id(request.worker_id());
  return response;
}

absl::Status ModelExpressSources::UpdateStatus(
    const mx::UpdateStatusRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  base::FaultList faults;
  if (!mx::SourceStatus_IsValid(request.status())) {
    faults.Add(absl::StrCat("status ", request.status(), " is unknown"));
  }
  if (request.has_source_load() && !std::isfinite(request.source_load())) {
    faults.Add("source_load is not a number");
  }
  if (!faults.empty()) {
    return faults.ToStatus(absl::StatusCode::kInvalidArgument);
  }
  const Key key(request.mx_source_id(), request.worker_id(),
                request.worker_rank());
  const auto found = records_.find(key);
  if (found == records_.end()) {
    return absl::NotFoundError(absl::StrCat(
        "worker \"", CleanReason(request.worker_id()), "\" rank ",
        request.worker_rank(), " of source \"",
        CleanReason(request.mx_source_id()),
        "\" is not published, or was forgotten; publish it again"));
  }
  Record& record = found->second;
  held_bytes_ -= BytesOf(record);
  if (request.has_source_load()) {
    record.row.set_source_load(request.source_load());
  }
  SetStatus(key, record, request.status(), now_ms);
  held_bytes_ += BytesOf(record);
  return absl::OkStatus();
}

void ModelExpressSources::SetStatus(const Key& key, Record& record,
                                    mx::SourceStatus status, int64_t now_ms) {
  record.status = status;
  record.row.set_updated_at(now_ms);
  const bool lives = status == mx::SOURCE_STATUS_INITIALIZING ||
                     status == mx::SOURCE_STATUS_READY;
  due_.Set(key, now_ms + (lives ? kStaleAfterMs : kForgetAfterMs));
}

void ModelExpressSources::Forget(const Key& key) {
  const auto found = records_.find(key);
  held_bytes_ -= BytesOf(found->second);
  records_.erase(found);
  due_.Clear(key);
}

void ModelExpressSources::DoWhatIsDue(int64_t now_ms) {
  while (const auto due = due_.PopDue(now_ms)) {
    Record& record = records_.at(due->first);
    if (record.status == mx::SOURCE_STATUS_INITIALIZING ||
        record.status == mx::SOURCE_STATUS_READY) {
      held_bytes_ -= BytesOf(record);
      SetStatus(due->first, record, mx::SOURCE_STATUS_STALE, due->second);
      held_bytes_ += BytesOf(record);
    } else {
      Forget(due->first);
    }
  }
}

}  // namespace weft::catalog
