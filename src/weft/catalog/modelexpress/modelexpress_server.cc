#include "weft/catalog/modelexpress/modelexpress_server.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "weft/base/status.h"
#include "weft/catalog/listen_address.h"
#include "weft/catalog/modelexpress/limits_internal.h"
#include "weft/catalog/modelexpress/modelexpress_service_internal.h"

namespace weft::catalog {
namespace {

std::function<int64_t()> WallClockThatNeverGoesBack() {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  const auto started = std::chrono::steady_clock::now();
  const int64_t started_ms =
      duration_cast<milliseconds>(
          std::chrono::system_clock::now().time_since_epoch())
          .count();
  return [started, started_ms] {
    const auto passed = std::chrono::steady_clock::now() - started;
    return started_ms + duration_cast<milliseconds>(passed).count();
  };
}

// Called under the mutex of the service.
std::function<std::string()> RandomUids() {
  auto device = std::make_shared<std::random_device>();
  return [device] { return absl::StrFormat("%08x", (*device)()); };
}

}  // namespace

struct ModelExpressServer::Impl {
  Impl(const std::function<int64_t()>& now_ms,
       const ModelExpressServerOptions& options)
      : p2p(ModelExpressLimits(), now_ms),
        refit(ModelExpressLimits(), now_ms, RandomUids(), options.on_note) {}

  ModelExpressP2pService p2p;
  ModelExpressRefitService refit;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::once_flag shut_down;
};

ModelExpressServer::ModelExpressServer(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}

ModelExpressServer::~ModelExpressServer() { Shutdown(); }

absl::StatusOr<std::unique_ptr<ModelExpressServer>> ModelExpressServer::Start(
    const std::string& listen_address,
    const ModelExpressServerOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const std::string address,
                        CheckedListenAddress(listen_address));
  auto impl = std::make_unique<Impl>(
      options.now_ms ? options.now_ms : WallClockThatNeverGoesBack(), options);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMxMaxMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMxMaxMessageBytes));
  // Two servers on one port would each see a part of the workers.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(),
                           &impl->port);
  builder.RegisterService(&impl->p2p);
  builder.RegisterService(&impl->refit);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return CannotListen(listen_address);
  }
  for (const char* service :
       {"model_express.p2p.P2pService", "model_express.refit.RefitService"}) {
    impl->server->GetHealthCheckService()->SetServingStatus(service, true);
  }
  return std::unique_ptr<ModelExpressServer>(
      new ModelExpressServer(std::move(impl)));
}

int ModelExpressServer::port() const { return impl_->port; }

void ModelExpressServer::Shutdown() {
  std::call_once(impl_->shut_down, [this] {
    impl_->server->Shutdown(std::chrono::system_clock::now());
    impl_->server->Wait();
  });
}

}  // namespace weft::catalog
