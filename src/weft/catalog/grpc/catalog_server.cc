#include "weft/catalog/grpc/catalog_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "weft/base/status.h"
#include "weft/catalog/grpc/catalog_service_internal.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/listen_address.h"

namespace weft::catalog {
namespace {

void SetConnectionOptions(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
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
  explicit Impl(CatalogStore* store) : service(store) {}

  CatalogService service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::once_flag shut_down;
};

CatalogServer::CatalogServer(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}

CatalogServer::~CatalogServer() { Shutdown(); }

absl::StatusOr<std::unique_ptr<CatalogServer>> CatalogServer::Start(
    const std::string& listen_address, CatalogStore* store) {
  WEFT_ASSIGN_OR_RETURN(const std::string address,
                        CheckedListenAddress(listen_address));
  auto impl = std::make_unique<Impl>(store);
  grpc::ServerBuilder builder;
  SetConnectionOptions(builder);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(),
                           &impl->port);
  builder.RegisterService(&impl->service);
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
