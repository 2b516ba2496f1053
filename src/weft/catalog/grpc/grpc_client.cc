#include "weft/catalog/grpc/grpc_client.h"

#include <grpc/support/time.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/client_streams_internal.h"
#include "weft/catalog/grpc/failover_client_internal.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/grpc/tls_internal.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

using Stub = v1::Catalog::Stub;

// A status message of kMaxTextBytes takes three times as much on the way.
constexpr int kMaxHeaderBytes = 64 << 10;
constexpr int kReconnectFirstMs = 100;
constexpr int kReconnectMaxMs = static_cast<int>(kSilence.count());
// How much longer than the wait itself the answer of BeginUpdate may take.
constexpr std::chrono::seconds kAnswerTime(5);
// A host that takes longer to shake hands is not answering.
constexpr std::chrono::seconds kExplanationTime(1);

// A protobuf string must be UTF-8, and an id that the catalog chose is ASCII:
// any other one is unknown in this form too.
std::string WireId(const std::string& id) {
  return CleanReason(id.substr(0, kMaxTextBytes));
}

class GrpcClient : public CatalogStore {
 public:
  explicit GrpcClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  absl::Status PutPlacement(const std::string& digest_hex,
                            const std::string& bytes,
                            base::Deadline deadline) override;
  absl::StatusOr<std::string> GetPlacement(const std::string& digest_hex,
                                           base::Deadline deadline) override;
  absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                        const std::string& binding,
                                        base::Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration& worker, base::Deadline deadline) override;
  absl::StatusOr<VersionRecord> PublishShard(const std::string& worker_id,
                                             uint64_t step,
                                             base::Deadline deadline) override;
  absl::StatusOr<VersionRecord> RepublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override;
  absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                      base::Deadline revoke_after) override;
  absl::StatusOr<std::unique_ptr<VersionWatch>> WatchVersions(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       const std::string& lease_id,
                                       base::Deadline deadline) override;
  absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                     const VersionId& version,
                                     base::Deadline deadline) override;
  absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                           const VersionId* newer_than,
                                           base::Deadline deadline) override;
  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline deadline) override;
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline deadline) override;
  absl::Status ReportServing(const std::string& worker_id,
                             const VersionId* committed,
                             const std::string& fenced_reason,
                             base::Deadline deadline) override;
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<std::vector<LeaseRecord>> ListLeases(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<EventPage> ReadEvents(const EventQuery& query,
                                       base::Deadline deadline) override;

 private:
  absl::StatusOr<VersionRecord> Publish(const std::string& worker_id,
                                        uint64_t step, bool again,
                                        base::Deadline deadline);
  absl::StatusOr<Lease> Acquire(const v1::AcquireLeaseRequest& request,
                                base::Deadline deadline);

  const std::shared_ptr<Connection> connection_;
};

absl::Status GrpcClient::PutPlacement(const std::string& digest_hex,
                                      const std::string& bytes,
                                      base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CheckDigestHex(digest_hex));
  WEFT_RETURN_IF_ERROR(CheckByteCount("placement", bytes, kMaxPlacementBytes));
  v1::PutPlacementRequest request;
  request.set_digest_hex(digest_hex);
  request.set_placement(bytes);
  v1::PutPlacementResponse response;
  return connection_->Call(&Stub::PutPlacement, request, response, deadline,
                           "putting a placement");
}

absl::StatusOr<std::string> GrpcClient::GetPlacement(
    const std::string& digest_hex, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CheckDigestHex(digest_hex));
  v1::GetPlacementRequest request;
  request.set_digest_hex(digest_hex);
  v1::GetPlacementResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::GetPlacement, request, response,
                                         deadline, "getting a placement"));
  return std::move(*response.mutable_placement());
}

absl::StatusOr<Registration> GrpcClient::Register(const WorkerInfo& info,
                                                  const std::string& binding,
                                                  base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CheckWorkerInfo(info));
  WEFT_RETURN_IF_ERROR(CheckByteCount("binding", binding, kMaxBindingBytes));
  v1::RegisterRequest request;
  ToWire(info, *request.mutable_info());
  request.set_binding(binding);
  v1::RegisterResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::Register, request, response,
                                         deadline, "registering a worker"));
  return Registration{response.worker_id(), response.generation()};
}

absl::StatusOr<std::unique_ptr<Attachment>> GrpcClient::Attach(
    const std::string& worker_id, base::Deadline deadline) {
  v1::AttachRequest request;
  request.set_worker_id(WireId(worker_id));
  return OpenAttachment(connection_, request, deadline);
}

absl::StatusOr<std::unique_ptr<Attachment>> GrpcClient::Reattach(
    const Registration& worker, base::Deadline deadline) {
  v1::AttachRequest request;
  request.set_worker_id(WireId(worker.worker_id));
  request.set_again_generation(worker.generation);
  return OpenAttachment(connection_, request, deadline);
}

absl::StatusOr<VersionRecord> GrpcClient::PublishShard(
    const std::string& worker_id, uint64_t step, base::Deadline deadline) {
  return Publish(worker_id, step, /*again=*/false, deadline);
}

absl::StatusOr<VersionRecord> GrpcClient::RepublishShard(
    const std::string& worker_id, uint64_t step, base::Deadline deadline) {
  return Publish(worker_id, step, /*again=*/true, deadline);
}

absl::StatusOr<VersionRecord> GrpcClient::Publish(const std::string& worker_id,
                                                  uint64_t step, bool again,
                                                  base::Deadline deadline) {
  v1::PublishShardRequest request;
  request.set_worker_id(WireId(worker_id));
  request.set_step(step);
  request.set_again(again);
  v1::PublishShardResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::PublishShard, request, response,
                                         deadline, "publishing a shard"));
  return FromWire(response.record());
}

absl::StatusOr<int64_t> GrpcClient::BeginUpdate(const std::string& worker_id,
                                                base::Deadline revoke_after) {
  v1::BeginUpdateRequest request;
  request.set_worker_id(WireId(worker_id));
  request.set_revoke_after_ns(revoke_after.Remaining().count());
  v1::BeginUpdateResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(
      &Stub::BeginUpdate, request, response,
      base::Deadline::After(revoke_after.Remaining() + kAnswerTime),
      "beginning an update"));
  return response.revoked_leases();
}

absl::StatusOr<std::unique_ptr<VersionWatch>> GrpcClient::WatchVersions(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CheckName("model", model));
  return OpenWatch(connection_, model, deadline);
}

absl::StatusOr<SourceSet> GrpcClient::GetSources(const std::string& model,
                                                 const std::string& lease_id,
                                                 base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CheckName("model", model));
  v1::GetSourcesRequest request;
  request.set_model(model);
  request.set_lease_id(WireId(lease_id));
  v1::GetSourcesResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::GetSources, request, response,
                                         deadline, "getting sources"));
  SourceSet sources{.source_set = response.source_set(),
                    .num_ranks = response.num_ranks(),
                    .model_card_digest_hex = response.model_card_digest_hex(),
                    .sources = {}};
  for (const wire::SourceRecord& source : response.sources()) {
    sources.sources.push_back(FromWire(source));
  }
  return sources;
}

absl::StatusOr<Lease> GrpcClient::AcquireLease(const std::string& worker_id,
                                               const VersionId& version,
                                               base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CheckName("run id", version.run_id));
  v1::AcquireLeaseRequest request;
  request.set_worker_id(WireId(worker_id));
  ToWire(version, *request.mutable_version());
  return Acquire(request, deadline);
}

absl::StatusOr<Lease> GrpcClient::AcquireNewestLease(
    const std::string& worker_id, const VersionId* newer_than,
    base::Deadline deadline) {
  v1::AcquireLeaseRequest request;
  request.set_worker_id(WireId(worker_id));
  if (newer_than != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckName("run id", newer_than->run_id));
    ToWire(*newer_than, *request.mutable_newer_than());
  }
  return Acquire(request, deadline);
}

absl::StatusOr<Lease> GrpcClient::Acquire(
    const v1::AcquireLeaseRequest& request, base::Deadline deadline) {
  v1::AcquireLeaseResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::AcquireLease, request, response,
                                         deadline, "acquiring a lease"));
  return Lease{.lease_id = response.lease_id(),
               .version = FromWire(response.version()),
               .lasts = std::chrono::nanoseconds(response.lasts_ns())};
}

absl::Status GrpcClient::RenewLease(const std::string& lease_id,
                                    base::Deadline deadline) {
  v1::RenewLeaseRequest request;
  request.set_lease_id(WireId(lease_id));
  v1::RenewLeaseResponse response;
  return connection_->Call(&Stub::RenewLease, request, response, deadline,
                           "renewing a lease");
}

absl::Status GrpcClient::ReleaseLease(const std::string& lease_id,
                                      bool committed,
                                      const std::string& fenced_reason,
                                      base::Deadline deadline) {
  v1::ReleaseLeaseRequest request;
  request.set_lease_id(WireId(lease_id));
  request.set_committed(committed);
  request.set_fenced_reason(CleanReason(fenced_reason));
  v1::ReleaseLeaseResponse response;
  return connection_->Call(&Stub::ReleaseLease, request, response, deadline,
                           "releasing a lease");
}

absl::Status GrpcClient::ReportServing(const std::string& worker_id,
                                       const VersionId* committed,
                                       const std::string& fenced_reason,
                                       base::Deadline deadline) {
  v1::ReportServingRequest request;
  request.set_worker_id(WireId(worker_id));
  if (committed != nullptr) ToWire(*committed, *request.mutable_committed());
  request.set_fenced_reason(CleanReason(fenced_reason));
  v1::ReportServingResponse response;
  return connection_->Call(&Stub::ReportServing, request, response, deadline,
                           "reporting what is served");
}

absl::StatusOr<std::vector<VersionRecord>> GrpcClient::ListVersions(
    const std::string& model, base::Deadline deadline) {
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  v1::ListVersionsRequest request;
  request.set_model(model);
  v1::ListVersionsResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::ListVersions, request, response,
                                         deadline, "listing versions"));
  std::vector<VersionRecord> records;
  for (const wire::VersionRecord& record : response.records()) {
    records.push_back(FromWire(record));
  }
  return records;
}

absl::StatusOr<std::vector<WorkerRecord>> GrpcClient::ListWorkers(
    const std::string& model, base::Deadline deadline) {
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  v1::ListWorkersRequest request;
  request.set_model(model);
  v1::ListWorkersResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::ListWorkers, request, response,
                                         deadline, "listing workers"));
  std::vector<WorkerRecord> records;
  for (const wire::WorkerRecord& record : response.records()) {
    records.push_back(FromWire(record));
  }
  return records;
}

absl::StatusOr<std::vector<LeaseRecord>> GrpcClient::ListLeases(
    const std::string& model, base::Deadline deadline) {
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  v1::ListLeasesRequest request;
  request.set_model(model);
  v1::ListLeasesResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::ListLeases, request, response,
                                         deadline, "listing leases"));
  std::vector<LeaseRecord> records;
  for (const wire::LeaseRecord& record : response.records()) {
    records.push_back(FromWire(record));
  }
  return records;
}

absl::StatusOr<EventPage> GrpcClient::ReadEvents(const EventQuery& query,
                                                 base::Deadline deadline) {
  if (!query.model.empty()) {
    WEFT_RETURN_IF_ERROR(CheckName("model", query.model));
  }
  v1::ReadEventsRequest request;
  request.set_from(query.from);
  request.set_log_id(query.log_id);
  request.set_model(query.model);
  request.set_max_events(query.max_events);
  request.set_wait_ns(query.wait_until.Remaining().count());
  v1::ReadEventsResponse response;
  WEFT_RETURN_IF_ERROR(connection_->Call(&Stub::ReadEvents, request, response,
                                         deadline, "reading events"));
  EventPage page{.log_id = response.log_id(),
                 .missed = response.missed(),
                 .restarted = response.restarted(),
                 .next = response.next(),
                 .end = response.end(),
                 .events = {}};
  for (const wire::Event& event : response.events()) {
    page.events.push_back(FromWire(event));
  }
  return page;
}

grpc::ChannelArguments ConnectionOptions() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMaxHeaderBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectFirstMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kReconnectMaxMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMaxMs);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, kEstimateBandwidth);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES,
                   kStreamLookaheadBytes);
  // A worker's connection is its sign of life: never shared with another
  // client of the same process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // The catalog is on the cluster's own network, where a proxy is a mistake.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

// OK once connected; kUnavailable at the first refusal, or at the deadline if
// nobody says anything: what is silent may have been lost on the way.
absl::Status AwaitConnected(grpc::Channel& channel, const std::string& address,
                            base::Deadline deadline) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point began = Clock::now();
  grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY) {
    const gpr_timespec until = gpr_time_add(
        gpr_now(GPR_CLOCK_MONOTONIC),
        gpr_time_from_nanos(deadline.Remaining().count(), GPR_TIMESPAN));
    // A refusal takes a round trip, silence all of its time.
    const bool is_refused = state == GRPC_CHANNEL_TRANSIENT_FAILURE &&
                            Clock::now() < began + kSilence / 2;
    if (is_refused || state == GRPC_CHANNEL_SHUTDOWN ||
        !channel.WaitForStateChange(state, until)) {
      return NoCatalogAnswers(address);
    }
    state = channel.GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_CONNECTING) began = Clock::now();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Door> MakeDoor(const ClientAccess& access) {
  WEFT_RETURN_IF_ERROR(CheckTls(access.tls));
  Door door{.access = access, .bearer = nullptr};
  WEFT_ASSIGN_OR_RETURN(door.bearer, Bearer::Make(access));
  return door;
}

absl::StatusOr<std::shared_ptr<Connection>> Connect(const std::string& address,
                                                    const Door& door,
                                                    base::Deadline deadline) {
  const ClientTls& tls = door.access.tls;
  WEFT_ASSIGN_OR_RETURN(const auto credentials, MakeChannelCredentials(tls));
  const std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(address, credentials, ConnectionOptions());
  if (!AwaitConnected(*channel, address, deadline).ok()) {
    return ExplainNoConnection(address, tls,
                               base::Deadline::After(kExplanationTime));
  }
  auto connection = std::make_shared<Connection>();
  connection->address = address;
  connection->stub = v1::Catalog::NewStub(channel);
  connection->bearer = door.bearer;
  return connection;
}

std::unique_ptr<CatalogStore> MakeClientOf(
    std::shared_ptr<Connection> connection) {
  return std::make_unique<GrpcClient>(std::move(connection));
}

absl::StatusOr<std::unique_ptr<CatalogStore>> MakeGrpcClient(
    const std::string& address, const GrpcClientOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const Door door, MakeDoor(options.access));
  const bool has_several = address.find(',') != std::string::npos;
  if (has_several || options.reconnect_within > std::chrono::nanoseconds(0)) {
    return MakeFailoverClient(address, options, door);
  }
  WEFT_ASSIGN_OR_RETURN(
      std::shared_ptr<Connection> connection,
      Connect(address, door, base::Deadline::After(options.connect_timeout)));
  return MakeClientOf(std::move(connection));
}

}  // namespace weft::catalog
