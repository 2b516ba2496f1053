// The gRPC service over a CatalogStore.
//
// Unary calls run on gRPC's own threads, which grow with the calls that wait
// in BeginUpdate. The streams Attach and WatchVersions hold no thread.
#ifndef WEFT_CATALOG_GRPC_CATALOG_SERVICE_INTERNAL_H_
#define WEFT_CATALOG_GRPC_CATALOG_SERVICE_INTERNAL_H_

#include <grpcpp/server_context.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "catalog.grpc.pb.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

class CatalogService final
    : public v1::Catalog::WithCallbackMethod_Attach<
          v1::Catalog::WithCallbackMethod_WatchVersions<v1::Catalog::Service>> {
 public:
  // `store` must outlive the service.
  explicit CatalogService(CatalogStore* store) : store_(store) {}

  // An attachment that lives until its stream breaks or Detach is called for
  // it, whichever comes first.
  class Attached;
  // `again_generation` as in AttachRequest.
  absl::StatusOr<std::shared_ptr<Attached>> AttachWorker(
      const std::string& worker_id, uint64_t again_generation = 0);
  // With `only` nothing happens if another attachment has taken its place.
  void DetachWorker(const std::string& worker_id,
                    const Attached* only = nullptr);

  // New streams are refused from now on, and those that end abandon their
  // workers.
  void StopStreams();

  grpc::Status PutPlacement(grpc::ServerContext* context,
                            const v1::PutPlacementRequest* request,
                            v1::PutPlacementResponse* response) override;
  grpc::Status GetPlacement(grpc::ServerContext* context,
                            const v1::GetPlacementRequest* request,
                            v1::GetPlacementResponse* response) override;
  grpc::Status Register(grpc::ServerContext* context,
                        const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override;
  grpc::ServerWriteReactor<v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* context,
      const v1::AttachRequest* request) override;
  grpc::Status Detach(grpc::ServerContext* context,
                      const v1::DetachRequest* request,
                      v1::DetachResponse* response) override;
  grpc::Status GetHealth(grpc::ServerContext* context,
                         const v1::GetHealthRequest* request,
                         v1::GetHealthResponse* response) override;
  grpc::Status PublishShard(grpc::ServerContext* context,
                            const v1::PublishShardRequest* request,
                            v1::PublishShardResponse* response) override;
  grpc::Status BeginUpdate(grpc::ServerContext* context,
                           const v1::BeginUpdateRequest* request,
                           v1::BeginUpdateResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchVersionsResponse>* WatchVersions(
      grpc::CallbackServerContext* context,
      const v1::WatchVersionsRequest* request) override;
  grpc::Status GetSources(grpc::ServerContext* context,
                          const v1::GetSourcesRequest* request,
                          v1::GetSourcesResponse* response) override;
  grpc::Status AcquireLease(grpc::ServerContext* context,
                            const v1::AcquireLeaseRequest* request,
                            v1::AcquireLeaseResponse* response) override;
  grpc::Status ReleaseLease(grpc::ServerContext* context,
                            const v1::ReleaseLeaseRequest* request,
                            v1::ReleaseLeaseResponse* response) override;
  grpc::Status ReportServing(grpc::ServerContext* context,
                             const v1::ReportServingRequest* request,
                             v1::ReportServingResponse* response) override;
  grpc::Status ListVersions(grpc::ServerContext* context,
                            const v1::ListVersionsRequest* request,
                            v1::ListVersionsResponse* response) override;
  grpc::Status ListWorkers(grpc::ServerContext* context,
                           const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;

 private:
  // OK, or why no new stream is taken.
  absl::Status CheckServing();
  // A worker that waits must end with its stream, or Shutdown would wait for
  // it: kFailedPrecondition if it lives but not through this server.
  absl::Status CheckHeldHere(const std::string& worker_id);
  // nullptr if no stream of this server holds the worker.
  std::shared_ptr<Attached> FindAttached(const std::string& worker_id);

  CatalogStore* const store_;
  std::mutex mutex_;
  bool stopping_ = false;
  std::map<std::string, std::shared_ptr<Attached>> attached_;
};

// One attached worker: what its stream and the unary calls share.
class CatalogService::Attached {
 public:
  explicit Attached(std::unique_ptr<Attachment> attachment)
      : attachment_(std::move(attachment)) {}

  absl::Status Health();
  // Marks the worker dead; nothing happens the second time. With `abandon`
  // it may live on elsewhere.
  void End(bool abandon);

 private:
  std::mutex mutex_;
  std::unique_ptr<Attachment> attachment_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CATALOG_SERVICE_INTERNAL_H_
