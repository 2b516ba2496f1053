#include "weft/catalog/modelexpress/modelexpress_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "modelexpress_p2p.grpc.pb.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/modelexpress/limits_internal.h"

namespace weft::catalog {

namespace mx = ::model_express::p2p;

namespace {

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMxMaxMessageBytes));
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

void SetDeadline(base::Deadline deadline, grpc::ClientContext& context) {
  // A day stands for ever; more would overflow.
  context.set_deadline(std::chrono::system_clock::now() +
                       std::min<std::chrono::nanoseconds>(
                           deadline.Remaining(), std::chrono::hours(24)));
}

absl::Status FromMxStatus(const grpc::Status& status,
                          const std::string& address) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      absl::StrCat("ModelExpress server at ", address, ": ",
                                   CleanReason(status.error_message())));
}

// "SOURCE_STATUS_READY" -> "READY"; a number that is not known as it is.
std::string WithoutPrefix(const std::string& name, size_t prefix, int number) {
  return name.empty() ? absl::StrCat(number) : name.substr(prefix);
}

std::string TransportOf(const mx::WorkerMetadata& worker) {
  if (!worker.transfer_engine_session_id().empty()) return "transfer engine";
  const bool nixl =
      !worker.nixl_metadata().empty() || !worker.agent_name().empty();
  return nixl ? "nixl" : "none";
}

template <typename Descriptors>
std::vector<ModelExpressTensor> TensorsOf(const Descriptors& descriptors) {
  std::vector<ModelExpressTensor> tensors;
  for (const mx::TensorDescriptor& each : descriptors) {
    tensors.push_back({.name = CleanReason(each.name()),
                       .dtype = CleanReason(each.dtype()),
                       .bytes = each.size(),
                       .device_id = each.device_id()});
  }
  return tensors;
}

void AskWorker(base::Deadline deadline, ModelExpressSource& source) {
  grpc::ClientContext context;
  SetDeadline(deadline, context);
  mx::GetTensorManifestRequest request;
  request.set_mx_source_id(source.source_id);
  request.set_worker_id(source.worker_id);
  mx::GetTensorManifestResponse response;
  const grpc::Status status =
      mx::WorkerService::NewStub(ChannelTo(source.worker_endpoint))
          ->GetTensorManifest(&context, request, &response);
  if (status.ok()) {
    source.tensors = TensorsOf(response.tensors());
  } else {
    source.note = absl::StrCat("worker at ", source.worker_endpoint, ": ",
                               CleanReason(status.error_message()));
  }
}

ModelExpressSource SourceOf(const mx::SourceInstanceRef& row,
                            const mx::GetMetadataResponse& got) {
  const mx::WorkerMetadata& worker = got.worker();
  ModelExpressSource source;
  source.source_id = CleanReason(row.mx_source_id());
  source.worker_id = CleanReason(row.worker_id());
  source.model = CleanReason(row.model_name());
  source.rank = row.worker_rank();
  source.status = WithoutPrefix(mx::SourceStatus_Name(worker.status()), 14,
                                worker.status());
  source.framework = absl::AsciiStrToLower(WithoutPrefix(
      mx::BackendFramework_Name(got.identity().backend_framework()), 18,
      got.identity().backend_framework()));
  source.transport = TransportOf(worker);
  source.accelerator = CleanReason(worker.accelerator());
  if (row.has_training_step()) source.training_step = row.training_step();
  source.updated_at_ms = row.updated_at();
  source.worker_endpoint = CleanReason(worker.worker_grpc_endpoint());
  source.tensors = worker.has_tensor_source()
                       ? TensorsOf(worker.tensor_source().tensors())
                       : TensorsOf(worker.tensors());
  if (worker.has_artifact_source()) {
    source.note = absl::StrCat("an artifact of ",
                               worker.artifact_source().total_size(), " bytes");
  } else if (source.tensors.empty() && !source.worker_endpoint.empty()) {
    source.note = absl::StrCat("its tensors are known to the worker at ",
                               source.worker_endpoint);
  }
  return source;
}

}  // namespace

absl::StatusOr<std::vector<ModelExpressSource>> ListModelExpressSources(
    const std::string& address, const std::string& model, bool ask_workers,
    base::Deadline deadline) {
  const auto stub = mx::P2pService::NewStub(ChannelTo(address));
  mx::ListSourcesRequest request;
  if (!model.empty()) request.set_model_name_filter(model);
  mx::ListSourcesResponse rows;
  {
    grpc::ClientContext context;
    SetDeadline(deadline, context);
    const grpc::Status status = stub->ListSources(&context, request, &rows);
    if (!status.ok()) return FromMxStatus(status, address);
  }
  std::vector<ModelExpressSource> sources;
  for (const mx::SourceInstanceRef& row : rows.instances()) {
    // Servers before 0.5 do not know the filter.
    if (!model.empty() && row.model_name() != model) continue;
    mx::GetMetadataRequest get;
    get.set_mx_source_id(row.mx_source_id());
    get.set_worker_id(row.worker_id());
    mx::GetMetadataResponse got;
    grpc::ClientContext context;
    SetDeadline(deadline, context);
    const grpc::Status status = stub->GetMetadata(&context, get, &got);
    if (!status.ok()) return FromMxStatus(status, address);
    ModelExpressSource source = SourceOf(row, got);
    if (!got.found()) {
      source.note = "it was forgotten while it was listed";
    } else if (got.worker().worker_rank() != row.worker_rank()) {
      source.tensors.clear();
      source.note = absl::StrCat("the server tells only of rank ",
                                 got.worker().worker_rank());
    } else if (ask_workers && source.tensors.empty() &&
               !source.worker_endpoint.empty()) {
      source.note.clear();
      AskWorker(deadline, source);
    }
    sources.push_back(std::move(source));
  }
  std::sort(sources.begin(), sources.end(), [](const auto& a, const auto& b) {
    return std::tie(a.model, a.source_id, a.worker_id, a.rank) <
           std::tie(b.model, b.source_id, b.worker_id, b.rank);
  });
  return sources;
}

}  // namespace weft::catalog
