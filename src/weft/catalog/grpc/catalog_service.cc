#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/deadline.h"
#include "weft/catalog/grpc/catalog_service_internal.h"
#include "weft/catalog/grpc/catalog_streams_internal.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

// The store answers at once but for BeginUpdate, and the client watches its
// own deadline: one that the server kept as well would only add a second
// answer to the same question.
base::Deadline AtOnce() { return base::Deadline::Infinite(); }

absl::Status NotAttachedHere(const std::string& worker_id) {
  return absl::FailedPreconditionError(
      absl::StrCat("worker \"", CleanReason(worker_id.substr(0, kMaxNameBytes)),
                   "\" is not attached through this server"));
}

}  // namespace

absl::Status CatalogService::Attached::Health() {
  const std::lock_guard lock(mutex_);
  if (attachment_ == nullptr) {
    return absl::FailedPreconditionError("the worker has been detached");
  }
  return attachment_->Health();
}

void CatalogService::Attached::End(bool abandon) {
  std::unique_ptr<Attachment> ended;
  {
    const std::lock_guard lock(mutex_);
    ended = std::move(attachment_);
  }
  if (abandon && ended != nullptr) ended->Abandon();
}

absl::StatusOr<std::shared_ptr<CatalogService::Attached>>
CatalogService::AttachWorker(const std::string& worker_id,
                             uint64_t again_generation) {
  absl::StatusOr<std::unique_ptr<Attachment>> attachment =
      again_generation == 0
          ? store_->Attach(worker_id, AtOnce())
          : store_->Reattach({worker_id, again_generation}, AtOnce());
  if (!attachment.ok()) return attachment.status();
  auto attached = std::make_shared<Attached>(*std::move(attachment));
  std::shared_ptr<Attached> replaced;  // ends when no lock is held
  const std::lock_guard lock(mutex_);
  replaced = std::exchange(attached_[worker_id], attached);
  return attached;
}

void CatalogService::DetachWorker(const std::string& worker_id,
                                  const Attached* only) {
  std::shared_ptr<Attached> attached;
  bool abandon = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = attached_.find(worker_id);
    if (found == attached_.end()) return;
    if (only != nullptr && found->second.get() != only) return;
    attached = std::move(found->second);
    attached_.erase(found);
    abandon = stopping_;
  }
  attached->End(abandon);
}

std::shared_ptr<CatalogService::Attached> CatalogService::FindAttached(
    const std::string& worker_id) {
  const std::lock_guard lock(mutex_);
  const auto found = attached_.find(worker_id);
  return found == attached_.end() ? nullptr : found->second;
}

absl::Status CatalogService::CheckHeldHere(const std::string& worker_id) {
  if (FindAttached(worker_id) != nullptr) return absl::OkStatus();
  const auto workers = store_->ListWorkers("", AtOnce());
  if (!workers.ok()) return workers.status();
  const bool lives_elsewhere =
      std::any_of(workers->begin(), workers->end(),
                  [&worker_id](const WorkerRecord& worker) {
                    return worker.worker_id == worker_id && worker.alive;
                  });
  // A worker that does not live is for the store to refuse.
  return lives_elsewhere ? NotAttachedHere(worker_id) : absl::OkStatus();
}

void CatalogService::StopStreams() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
}

absl::Status CatalogService::CheckServing() {
  const std::lock_guard lock(mutex_);
  if (!stopping_) return absl::OkStatus();
  return absl::UnavailableError("the catalog is shutting down");
}

grpc::Status CatalogService::PutPlacement(
    grpc::ServerContext* /*context*/, const v1::PutPlacementRequest* request,
    v1::PutPlacementResponse* /*response*/) {
  return ToWireStatus(store_->PutPlacement(request->digest_hex(),
                                           request->placement(), AtOnce()));
}

grpc::Status CatalogService::GetPlacement(
    grpc::ServerContext* /*context*/, const v1::GetPlacementRequest* request,
    v1::GetPlacementResponse* response) {
  absl::StatusOr<std::string> placement =
      store_->GetPlacement(request->digest_hex(), AtOnce());
  if (!placement.ok()) return ToWireStatus(placement.status());
  response->set_placement(*std::move(placement));
  return grpc::Status::OK;
}

grpc::Status CatalogService::Register(grpc::ServerContext* /*context*/,
                                      const v1::RegisterRequest* request,
                                      v1::RegisterResponse* response) {
  const absl::StatusOr<Registration> registration =
      store_->Register(FromWire(request->info()), request->binding(), AtOnce());
  if (!registration.ok()) return ToWireStatus(registration.status());
  response->set_worker_id(registration->worker_id);
  response->set_generation(registration->generation);
  return grpc::Status::OK;
}

grpc::ServerWriteReactor<v1::AttachResponse>* CatalogService::Attach(
    grpc::CallbackServerContext* /*context*/,
    const v1::AttachRequest* request) {
  const absl::Status serving = CheckServing();
  if (!serving.ok()) {
    return StartAttachStream(*this, request->worker_id(), serving);
  }
  return StartAttachStream(
      *this, request->worker_id(),
      AttachWorker(request->worker_id(), request->again_generation()));
}

grpc::Status CatalogService::Detach(grpc::ServerContext* /*context*/,
                                    const v1::DetachRequest* request,
                                    v1::DetachResponse* /*response*/) {
  DetachWorker(request->worker_id());
  return grpc::Status::OK;
}

grpc::Status CatalogService::GetHealth(grpc::ServerContext* /*context*/,
                                       const v1::GetHealthRequest* request,
                                       v1::GetHealthResponse* /*response*/) {
  const auto attached = FindAttached(request->worker_id());
  return ToWireStatus(attached == nullptr
                          ? NotAttachedHere(request->worker_id())
                          : attached->Health());
}

grpc::Status CatalogService::PublishShard(
    grpc::ServerContext* /*context*/, const v1::PublishShardRequest* request,
    v1::PublishShardResponse* response) {
  const absl::StatusOr<VersionRecord> record =
      request->again() ? store_->RepublishShard(request->worker_id(),
                                                request->step(), AtOnce())
                       : store_->PublishShard(request->worker_id(),
                                              request->step(), AtOnce());
  if (!record.ok()) return ToWireStatus(record.status());
  ToWire(*record, *response->mutable_record());
  return grpc::Status::OK;
}

grpc::Status CatalogService::BeginUpdate(grpc::ServerContext* /*context*/,
                                         const v1::BeginUpdateRequest* request,
                                         v1::BeginUpdateResponse* response) {
  if (const absl::Status status = CheckHeldHere(request->worker_id());
      !status.ok()) {
    return ToWireStatus(status);
  }
  const base::Deadline revoke_after = base::Deadline::After(
      std::chrono::nanoseconds(request->revoke_after_ns()));
  const absl::StatusOr<int64_t> revoked =
      store_->BeginUpdate(request->worker_id(), revoke_after);
  if (!revoked.ok()) return ToWireStatus(revoked.status());
  response->set_revoked_leases(*revoked);
  return grpc::Status::OK;
}

grpc::ServerWriteReactor<v1::WatchVersionsResponse>*
CatalogService::WatchVersions(grpc::CallbackServerContext* /*context*/,
                              const v1::WatchVersionsRequest* request) {
  const absl::Status serving = CheckServing();
  if (!serving.ok()) return StartWatchStream(serving);
  return StartWatchStream(store_->WatchVersions(request->model(), AtOnce()));
}

grpc::Status CatalogService::GetSources(grpc::ServerContext* /*context*/,
                                        const v1::GetSourcesRequest* request,
                                        v1::GetSourcesResponse* response) {
  const absl::StatusOr<SourceSet> sources =
      store_->GetSources(request->model(), AtOnce());
  if (!sources.ok()) return ToWireStatus(sources.status());
  response->set_source_set(sources->source_set);
  response->set_num_ranks(sources->num_ranks);
  response->set_model_card_digest_hex(sources->model_card_digest_hex);
  for (const SourceRecord& source : sources->sources) {
    ToWire(source, *response->add_sources());
  }
  return grpc::Status::OK;
}

grpc::Status CatalogService::AcquireLease(
    grpc::ServerContext* /*context*/, const v1::AcquireLeaseRequest* request,
    v1::AcquireLeaseResponse* response) {
  const VersionId newer_than = FromWire(request->newer_than());
  const absl::StatusOr<Lease> lease =
      request->has_version()
          ? store_->AcquireLease(request->worker_id(),
                                 FromWire(request->version()), AtOnce())
          : store_->AcquireNewestLease(
                request->worker_id(),
                request->has_newer_than() ? &newer_than : nullptr, AtOnce());
  if (!lease.ok()) return ToWireStatus(lease.status());
  response->set_lease_id(lease->lease_id);
  ToWire(lease->version, *response->mutable_version());
  return grpc::Status::OK;
}

grpc::Status CatalogService::ReleaseLease(
    grpc::ServerContext* /*context*/, const v1::ReleaseLeaseRequest* request,
    v1::ReleaseLeaseResponse* /*response*/) {
  return ToWireStatus(store_->ReleaseLease(request->lease_id(),
                                           request->committed(),
                                           request->fenced_reason(), AtOnce()));
}

grpc::Status CatalogService::ReportServing(
    grpc::ServerContext* /*context*/, const v1::ReportServingRequest* request,
    v1::ReportServingResponse* /*response*/) {
  const VersionId committed = FromWire(request->committed());
  return ToWireStatus(store_->ReportServing(
      request->worker_id(), request->has_committed() ? &committed : nullptr,
      request->fenced_reason(), AtOnce()));
}

grpc::Status CatalogService::ListVersions(
    grpc::ServerContext* /*context*/, const v1::ListVersionsRequest* request,
    v1::ListVersionsResponse* response) {
  const auto records = store_->ListVersions(request->model(), AtOnce());
  if (!records.ok()) return ToWireStatus(records.status());
  for (const VersionRecord& record : *records) {
    ToWire(record, *response->add_records());
  }
  return grpc::Status::OK;
}

grpc::Status CatalogService::ListWorkers(grpc::ServerContext* /*context*/,
                                         const v1::ListWorkersRequest* request,
                                         v1::ListWorkersResponse* response) {
  const auto records = store_->ListWorkers(request->model(), AtOnce());
  if (!records.ok()) return ToWireStatus(records.status());
  for (const WorkerRecord& record : *records) {
    ToWire(record, *response->add_records());
  }
  return grpc::Status::OK;
}

}  // namespace weft::catalog
