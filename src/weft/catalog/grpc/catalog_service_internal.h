// The gRPC service over a CatalogStore.
//
// Unary calls run on gRPC's own threads, which grow with the calls that wait
// in BeginUpdate and ReadEvents. The streams Attach and WatchVersions hold no
// thread.
#ifndef WEFT_CATALOG_GRPC_CATALOG_SERVICE_INTERNAL_H_
#define WEFT_CATALOG_GRPC_CATALOG_SERVICE_INTERNAL_H_

#include <grpcpp/server_context.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "catalog.grpc.pb.h"
#include "weft/base/deadline.h"
#include "weft/catalog/access/gate.h"
#include "weft/catalog/event.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

class CatalogService final
    : public v1::Catalog::WithCallbackMethod_Attach<
          v1::Catalog::WithCallbackMethod_WatchVersions<v1::Catalog::Service>> {
 public:
  // `store` and `gate` must outlive the service. No gate: every call is
  // admitted.
  explicit CatalogService(CatalogStore* store, Gate* gate = nullptr,
                          int64_t max_watches = INT64_MAX)
      : store_(store), gate_(gate), max_watches_(max_watches) {}

  // An attachment that lives until its stream breaks or Detach is called for
  // it, whichever comes first.
  class Attached;
  // `again_generation` as in AttachRequest.
  absl::StatusOr<std::shared_ptr<Attached>> AttachWorker(
      const std::string& worker_id, uint64_t again_generation = 0);
  // The worker has said so itself if `in_order`. With `only` nothing happens if
  // another attachment has taken its place.
  void DetachWorker(const std::string& worker_id, bool in_order,
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
  grpc::Status RenewLease(grpc::ServerContext* context,
                          const v1::RenewLeaseRequest* request,
                          v1::RenewLeaseResponse* response) override;
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
  grpc::Status ListLeases(grpc::ServerContext* context,
                          const v1::ListLeasesRequest* request,
                          v1::ListLeasesResponse* response) override;
  grpc::Status ReadEvents(grpc::ServerContext* context,
                          const v1::ReadEventsRequest* request,
                          v1::ReadEventsResponse* response) override;

 private:
  // What a call does once it is admitted, for the holder of the token `owner`;
  // it may add to `facts` what only then is known.
  using Body =
      std::function<absl::Status(const std::string& owner, CallFacts& facts)>;
  absl::Status Guard(grpc::ServerContextBase* context, CallFacts facts,
                     const Body& body);
  absl::StatusOr<std::string> OwnerOf(const std::string& worker_id);
  // One watch more, until the result is dropped.
  absl::StatusOr<std::shared_ptr<void>> CountWatch();
  // The same for a call that waits for events.
  absl::StatusOr<std::shared_ptr<void>> CountWaitingReader();

  // OK, or why no new stream is taken.
  absl::Status CheckServing();
  // A worker that waits must end with its stream, or Shutdown would wait for
  // it: kFailedPrecondition if it lives but not through this server.
  absl::Status CheckHeldHere(const std::string& worker_id);
  // The page that `query` asks for, waiting for it until `wait_until`, the end
  // of the call or that of the server.
  absl::StatusOr<EventPage> AwaitEvents(const grpc::ServerContext* context,
                                        EventQuery query,
                                        base::Deadline wait_until);
  // nullptr if no stream of this server holds the worker.
  std::shared_ptr<Attached> FindAttached(const std::string& worker_id);

  CatalogStore* const store_;
  Gate* const gate_;
  const int64_t max_watches_;
  std::atomic<int64_t> watches_ = 0;
  std::mutex mutex_;
  bool stopping_ = false;
  int waiting_readers_ = 0;  // of events
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
  void End(bool abandon, bool in_order);

 private:
  std::mutex mutex_;
  std::unique_ptr<Attachment> attachment_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CATALOG_SERVICE_INTERNAL_H_
