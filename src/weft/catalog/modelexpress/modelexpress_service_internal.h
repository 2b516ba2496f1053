// The two gRPC services over the two states.
#ifndef WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_SERVICE_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_SERVICE_INTERNAL_H_

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "modelexpress_p2p.grpc.pb.h"
#include "modelexpress_refit.grpc.pb.h"
#include "weft/catalog/modelexpress/p2p_sources_internal.h"
#include "weft/catalog/modelexpress/refit_versions_internal.h"

namespace weft::catalog {

// Threads: calls may run side by side, one at a time under the mutex.
class ModelExpressP2pService final : public mx::P2pService::Service {
 public:
  ModelExpressP2pService(const ModelExpressLimits& limits,
                         std::function<int64_t()> now_ms)
      : now_ms_(std::move(now_ms)), sources_(limits) {}

  grpc::Status PublishMetadata(grpc::ServerContext* context,
                               const mx::PublishMetadataRequest* request,
                               mx::PublishMetadataResponse* response) override;
  grpc::Status ListSources(grpc::ServerContext* context,
                           const mx::ListSourcesRequest* request,
                           mx::ListSourcesResponse* response) override;
  grpc::Status GetMetadata(grpc::ServerContext* context,
                           const mx::GetMetadataRequest* request,
                           mx::GetMetadataResponse* response) override;
  grpc::Status UpdateStatus(grpc::ServerContext* context,
                            const mx::UpdateStatusRequest* request,
                            mx::UpdateStatusResponse* response) override;

 private:
  const std::function<int64_t()> now_ms_;
  std::mutex mutex_;
  ModelExpressSources sources_;
};

class ModelExpressRefitService final : public mxr::RefitService::Service {
 public:
  ModelExpressRefitService(const ModelExpressLimits& limits,
                           std::function<int64_t()> now_ms,
                           std::function<std::string()> new_uid,
                           std::function<void(const std::string&)> on_note)
      : now_ms_(std::move(now_ms)),
        versions_(limits, std::move(new_uid), std::move(on_note)) {}

  grpc::Status CreateWeightVersion(
      grpc::ServerContext* context,
      const mxr::CreateWeightVersionRequest* request,
      mxr::CreateWeightVersionResponse* response) override;
  grpc::Status GetWeightVersion(
      grpc::ServerContext* context, const mxr::GetWeightVersionRequest* request,
      mxr::GetWeightVersionResponse* response) override;
  grpc::Status DeleteWeightVersion(
      grpc::ServerContext* context,
      const mxr::DeleteWeightVersionRequest* request,
      mxr::DeleteWeightVersionResponse* response) override;
  grpc::Status UpdateWeightVersionState(
      grpc::ServerContext* context,
      const mxr::UpdateWeightVersionStateRequest* request,
      mxr::UpdateWeightVersionStateResponse* response) override;
  grpc::Status RegisterWorker(grpc::ServerContext* context,
                              const mxr::RegisterWorkerRequest* request,
                              mxr::RegisterWorkerResponse* response) override;
  grpc::Status CreateWeightVersionShard(
      grpc::ServerContext* context,
      const mxr::CreateWeightVersionShardRequest* request,
      mxr::CreateWeightVersionShardResponse* response) override;
  grpc::Status ListWeightVersionShards(
      grpc::ServerContext* context,
      const mxr::ListWeightVersionShardsRequest* request,
      mxr::ListWeightVersionShardsResponse* response) override;
  grpc::Status DeleteWeightVersionShard(
      grpc::ServerContext* context,
      const mxr::DeleteWeightVersionShardRequest* request,
      mxr::DeleteWeightVersionShardResponse* response) override;
  grpc::Status RegisterVersionLease(
      grpc::ServerContext* context,
      const mxr::RegisterVersionLeaseRequest* request,
      mxr::RegisterVersionLeaseResponse* response) override;
  grpc::Status DeleteVersionLease(
      grpc::ServerContext* context,
      const mxr::DeleteVersionLeaseRequest* request,
      mxr::DeleteVersionLeaseResponse* response) override;

 private:
  const std::function<int64_t()> now_ms_;
  std::mutex mutex_;
  ModelExpressVersions versions_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_SERVICE_INTERNAL_H_
