#include "endpoints.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/limits.h"
#include "weft/transport/cuda/cuda_transport.h"
#include "weft/transport/nixl/nixl_transport.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::apps {
absl::StatusOr<std::shared_ptr<catalog::CatalogStore>> ConnectCatalog(
    const std::string& address, const catalog::ClientAccess& access) {
  WEFT_ASSIGN_OR_RETURN(
      std::unique_ptr<catalog::CatalogStore> client,
      catalog::MakeGrpcClient(address,
                              {.reconnect_within = catalog::kReconnectWithin,
                               .access = catalog::WithEnvironment(access)}));
  return std::shared_ptr<catalog::CatalogStore>(std::move(client));
}

absl::StatusOr<catalog::Labels> ParseLabels(
    const std::vector<std::string>& words) {
  catalog::Labels labels;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("label \"", word, "\" is not of the form NAME=VALUE"));
    }
    if (!labels.emplace(word.substr(0, equals), word.substr(equals + 1))
             .second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "label \"", word.substr(0, equals), "\" is given twice"));
    }
  }
  WEFT_RETURN_IF_ERROR(catalog::CheckLabels(labels));
  return labels;
}

void AddAccessOptions(CLI::App& command, catalog::ClientAccess& access) {
  const std::string group = "Security (docs/security.md)";
  command
      .add_option("--tls-ca", access.tls.ca_file,
                  "speak TLS; PEM file of the authorities that may vouch for "
                  "the catalog (WEFT_TLS_CA)")
      ->group(group);
  command
      .add_option("--tls-cert", access.tls.cert_file,
                  "PEM file of this client's certificate (WEFT_TLS_CERT)")
      ->group(group);
  command
      .add_option("--tls-key", access.tls.key_file,
                  "PEM file of its private key (WEFT_TLS_KEY)")
      ->group(group);
  command
      .add_option("--token-file", access.token_file,
                  "file that holds this client's token (WEFT_TOKEN_FILE, or "
                  "the token itself in WEFT_TOKEN)")
      ->group(group);
  command
      .add_flag("--insecure-tokens", access.insecure_token,
                "send the token even without TLS (WEFT_INSECURE_TOKENS=1)")
      ->group(group);
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
        transport::MakeCudaTransport({.driver = device.driver,
                                      .device = device.device,
                                      .handles = device.handles}));
    add(std::move(cuda));
  }
  if (all || choice == "shm") {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::Transport> shm,
                          transport::MakeShmTransport());
    add(std::move(shm));
  }
  if (all || choice == "ucx") {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Transport> ucx,
        transport::MakeUcxTransport(
            {.driver = device.driver, .device = device.device}));
    add(std::move(ucx));
  }
  // Never by itself: UCX is always there and does the same with less.
  if (choice == "nixl") {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Transport> nixl,
        transport::MakeNixlTransport(
            {.driver = device.driver, .device = device.device}));
    add(std::move(nixl));
  }
  return transports;
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

void EndAtStopSignal(std::function<void()> before) {
  std::thread([before = std::move(before)] {
    sigset_t signals = StopSignals();
    int received = 0;
    sigwait(&signals, &received);
    before();
    signal(received, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
    raise(received);
  }).detach();
}

bool StopSignalCame() {
  const sigset_t signals = StopSignals();
  const timespec at_once{};
  return sigtimedwait(&signals, nullptr, &at_once) > 0;
}

}  // namespace weft::apps
