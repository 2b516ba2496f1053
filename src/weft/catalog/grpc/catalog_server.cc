#include "weft/catalog/grpc/catalog_server.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/call_watcher_internal.h"
#include "weft/catalog/grpc/catalog_service_internal.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/grpc/tls_internal.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/listen_address.h"

namespace weft::catalog {
namespace {

absl::Status CheckOptions(const CatalogServerOptions& options) {
  if (!options.gate.token_file.empty() && !options.tls.enabled() &&
      !options.insecure_tokens) {
    return absl::InvalidArgumentError(
        "tokens without TLS could be read by everyone on the way: give "
        "--tls-cert and --tls-key, or --insecure-tokens if the network is "
        "yours");
  }
  if (options.max_message_bytes < 1 ||
      options.max_message_bytes > kMaxMessageBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of at most ", options.max_message_bytes,
                     " bytes is not between 1 and ", kMaxMessageBytes));
  }
  return absl::OkStatus();
}

// By default the threads that a burst needs are made for it and end with it.
void SetThreads(grpc::ServerBuilder& builder) {
  using Option = grpc::ServerBuilder::SyncServerOption;
  builder.SetSyncServerOption(Option::MIN_POLLERS, 1);
  builder.SetSyncServerOption(Option::MAX_POLLERS, kWaitingThreads);
}

void SetConnectionOptions(int64_t max_message_bytes,
                          grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, kEstimateBandwidth);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES,
                             kStreamLookaheadBytes);
  // Two catalogs on one port would each see a part of the workers.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // The clients ping as often: that is not an attack.
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kKeepaliveMs / 2);
}

}  // namespace

struct CatalogServer::Impl {
  Impl(CatalogStore* store, std::unique_ptr<Gate> made_gate,
       int64_t max_watches)
      : gate(std::move(made_gate)), service(store, gate.get(), max_watches) {}

  const std::unique_ptr<Gate> gate;
  CatalogService service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::once_flag shut_down;
};

CatalogServer::CatalogServer(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}

CatalogServer::~CatalogServer() { Shutdown(); }

absl::StatusOr<std::unique_ptr<CatalogServer>> CatalogServer::Start(
    const std::string& listen_address, CatalogStore* store,
    const CatalogServerOptions& options) {
  WEFT_RETURN_IF_ERROR(CheckOptions(options));
  WEFT_ASSIGN_OR_RETURN(const std::string address,
                        CheckedListenAddress(listen_address));
  WEFT_ASSIGN_OR_RETURN(const auto credentials,
                        MakeServerCredentials(options.tls));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Gate> gate, Gate::Make(options.gate));
  auto impl =
      std::make_unique<Impl>(store, std::move(gate), options.max_watches);
  grpc::ServerBuilder builder;
  SetConnectionOptions(options.max_message_bytes, builder);
  SetThreads(builder);
  builder.AddListeningPort(address, credentials, &impl->port);
  builder.RegisterService(&impl->service);
  if (options.observer != nullptr) {
    std::vector<
        std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
        watchers;
    watchers.push_back(MakeCallWatcher(options.observer));
    builder.experimental().SetInterceptorCreators(std::move(watchers));
  }
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return CannotListen(listen_address);
  }
  return std::unique_ptr<CatalogServer>(new CatalogServer(std::move(impl)));
}

int CatalogServer::port() const { return impl_->port; }

void CatalogServer::Shutdown() {
  std::call_once(impl_->shut_down, [this] {
    impl_->service.StopStreams();
    // Past at once: every call is cancelled now. The Attach streams that end
    // so kill their workers, which ends the calls that wait in BeginUpdate.
    impl_->server->Shutdown(std::chrono::system_clock::now());
    impl_->server->Wait();
  });
}

}  // namespace weft::catalog
