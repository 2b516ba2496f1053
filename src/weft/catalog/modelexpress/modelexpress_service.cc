#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/modelexpress/modelexpress_service_internal.h"

namespace weft::catalog {
namespace {

// The codes of both are the same numbers.
grpc::Status MxStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      CleanReason(std::string(status.message())));
}

// Into the one field of the response, or the error.
template <typename Value>
grpc::Status Answer(absl::StatusOr<Value> result, Value* field) {
  if (!result.ok()) return MxStatus(result.status());
  *field = *std::move(result);
  return grpc::Status::OK;
}

}  // namespace

// Where the response can say that it failed it does, and the call itself
// succeeds: that is where their clients look.
grpc::Status ModelExpressP2pService::PublishMetadata(
    grpc::ServerContext* /*context*/, const mx::PublishMetadataRequest* request,
    mx::PublishMetadataResponse* response) {
  const std::lock_guard lock(mutex_);
  const auto source_id = sources_.Publish(*request, now_ms_());
  response->set_success(source_id.ok());
  if (source_id.ok()) {
    response->set_mx_source_id(*source_id);
    response->set_worker_id(request->worker_id());
  } else {
    response->set_message(
        CleanReason(std::string(source_id.status().message())));
  }
  return grpc::Status::OK;
}

grpc::Status ModelExpressP2pService::ListSources(
    grpc::ServerContext* /*context*/, const mx::ListSourcesRequest* request,
    mx::ListSourcesResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(sources_.List(*request, now_ms_()), response);
}

grpc::Status ModelExpressP2pService::GetMetadata(
    grpc::ServerContext* /*context*/, const mx::GetMetadataRequest* request,
    mx::GetMetadataResponse* response) {
  const std::lock_guard lock(mutex_);
  *response = sources_.Get(*request, now_ms_());
  return grpc::Status::OK;
}

grpc::Status ModelExpressP2pService::UpdateStatus(
    grpc::ServerContext* /*context*/, const mx::UpdateStatusRequest* request,
    mx::UpdateStatusResponse* response) {
  const std::lock_guard lock(mutex_);
  const absl::Status status = sources_.UpdateStatus(*request, now_ms_());
  response->set_success(status.ok());
  response->set_message(CleanReason(std::string(status.message())));
  return grpc::Status::OK;
}

grpc::Status ModelExpressRefitService::CreateWeightVersion(
    grpc::ServerContext* /*context*/,
    const mxr::CreateWeightVersionRequest* request,
    mxr::CreateWeightVersionResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.Create(*request, now_ms_()),
                response->mutable_version());
}

grpc::Status ModelExpressRefitService::GetWeightVersion(
    grpc::ServerContext* /*context*/,
    const mxr::GetWeightVersionRequest* request,
    mxr::GetWeightVersionResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.Get(request->uid(), now_ms_()),
                response->mutable_version());
}

grpc::Status ModelExpressRefitService::DeleteWeightVersion(
    grpc::ServerContext* /*context*/,
    const mxr::DeleteWeightVersionRequest* request,
    mxr::DeleteWeightVersionResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(
      versions_.SetState(request->uid(), mxr::WEIGHT_VERSION_STATE_RELEASING,
                         now_ms_()),
      response->mutable_version());
}

grpc::Status ModelExpressRefitService::UpdateWeightVersionState(
    grpc::ServerContext* /*context*/,
    const mxr::UpdateWeightVersionStateRequest* request,
    mxr::UpdateWeightVersionStateResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.SetState(request->uid(), request->state(), now_ms_()),
                response->mutable_version());
}

grpc::Status ModelExpressRefitService::RegisterWorker(
    grpc::ServerContext* /*context*/, const mxr::RegisterWorkerRequest* request,
    mxr::RegisterWorkerResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.RegisterWorker(*request, now_ms_()),
                response->mutable_worker());
}

grpc::Status ModelExpressRefitService::CreateWeightVersionShard(
    grpc::ServerContext* /*context*/,
    const mxr::CreateWeightVersionShardRequest* request,
    mxr::CreateWeightVersionShardResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.CreateShard(request->shard(), now_ms_()), response);
}

grpc::Status ModelExpressRefitService::ListWeightVersionShards(
    grpc::ServerContext* /*context*/,
    const mxr::ListWeightVersionShardsRequest* request,
    mxr::ListWeightVersionShardsResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.ListShards(request->version_id(), now_ms_()),
                response);
}

grpc::Status ModelExpressRefitService::DeleteWeightVersionShard(
    grpc::ServerContext* /*context*/,
    const mxr::DeleteWeightVersionShardRequest* request,
    mxr::DeleteWeightVersionShardResponse* response) {
  const std::lock_guard lock(mutex_);
  const absl::Status status = versions_.DeleteShard(*request, now_ms_());
  response->set_deleted(status.ok());
  return MxStatus(status);
}

grpc::Status ModelExpressRefitService::RegisterVersionLease(
    grpc::ServerContext* /*context*/,
    const mxr::RegisterVersionLeaseRequest* request,
    mxr::RegisterVersionLeaseResponse* response) {
  const std::lock_guard lock(mutex_);
  return Answer(versions_.Lease(*request, now_ms_()),
                response->mutable_lease());
}

grpc::Status ModelExpressRefitService::DeleteVersionLease(
    grpc::ServerContext* /*context*/,
    const mxr::DeleteVersionLeaseRequest* request,
    mxr::DeleteVersionLeaseResponse* response) {
  const std::lock_guard lock(mutex_);
  const auto deleted = versions_.DeleteLease(*request, now_ms_());
  if (!deleted.ok()) return MxStatus(deleted.status());
  response->set_deleted(*deleted);
  return grpc::Status::OK;
}

}  // namespace weft::catalog
