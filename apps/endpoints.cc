#include "endpoints.h"

#include <chrono>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/transport/cuda/cuda_transport.h"
#include "weft/transport/nixl/nixl_transport.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::apps {
namespace {

// A catalog that is started again, or taken away for another, takes less.
constexpr std::chrono::seconds kReconnectWithin(10);

}  // namespace

absl::StatusOr<std::shared_ptr<catalog::CatalogStore>> ConnectCatalog(
    const std::string& address) {
  WEFT_ASSIGN_OR_RETURN(
      std::unique_ptr<catalog::CatalogStore> client,
      catalog::MakeGrpcClient(address, {.reconnect_within = kReconnectWithin}));
  return std::shared_ptr<catalog::CatalogStore>(std::move(client));
}

absl::StatusOr<std::vector<std::shared_ptr<transport::Transport>>>
MakeTransports(const std::string& choice, const DeviceChoice& device,
               std::shared_ptr<transport::FaultScript> faults) {
  if (choice != "auto" && choice != "shm" && choice != "ucx" &&
      choice != "nixl" && choice != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown transport \"", choice,
                     "\"; known are auto, shm, ucx, nixl, cuda"));
  }
  if (choice == "cuda" && device.device == memory::kHostMemory) {
    return absl::InvalidArgumentError(
        "the transport cuda serves a rank on a GPU: give --device cuda:N");
  }
  std::vector<std::shared_ptr<transport::Transport>> transports;
  const auto add = [&](std::unique_ptr<transport::Transport> made) {
    if (faults != nullptr) {
      made = transport::MakeFaultTransport(std::move(made), faults);
    }
    transports.push_back(std::move(made));
  };
  const bool all = choice == "auto";
  if (device.device != memory::kHostMemory && (all || choice == "cuda")) {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Transport> cuda,
        transport::MakeCudaTransport(
            {.driver = device.driver, .device = device.device}));
    add(std::move(cuda));
  }
  if (all || choice == "shm") {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::Transport> shm,
                          transport::MakeShmTransport());
    add(std::move(shm));
  }
  if (all || choice == "ucx") {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::Transport> ucx,
                          transport::MakeUcxTransport({}));
    add(std::move(ucx));
  }
  // Never by itself: UCX is always there and does the same with less.
  if (choice == "nixl") {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Transport> nixl,
        transport::MakeNixlTransport({.driver = device.driver}));
    add(std::move(nixl));
  }
  return transports;
}

base::Deadline AfterSeconds(double seconds) {
  return base::Deadline::After(
      std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)));
}

namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

void WaitForStopSignal() {
  const sigset_t signals = StopSignals();
  int received = 0;
  sigwait(&signals, &received);
}

}  // namespace weft::apps
