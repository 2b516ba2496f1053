#include "endpoint.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::python {

base::Deadline AfterSeconds(double seconds) {
  return base::Deadline::After(
      std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)));
}

absl::StatusOr<std::shared_ptr<catalog::CatalogStore>> ConnectCatalog(
    const std::string& address, base::Deadline deadline) {
  catalog::GrpcClientOptions options;
  options.connect_timeout =
      std::min(options.connect_timeout, deadline.Remaining());
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<catalog::CatalogStore> client,
                        catalog::MakeGrpcClient(address, options));
  return std::shared_ptr<catalog::CatalogStore>(std::move(client));
}

// The extension is not linked against UCX: weft/__init__.py loads the one that
// this machine has, for all to see, before the extension.
std::string WhyNoUcx() {
  for (const char* symbol : {"ucp_init_version", "ucs_status_string"}) {
    if (dlsym(RTLD_DEFAULT, symbol) == nullptr) {
      return "no libucp.so.0 is loaded; install UCX (Debian: libucx0) or pip "
             "install libucx-cu13";
    }
  }
  return "";
}

absl::StatusOr<Transports> MakeTransports(const std::string& choice) {
  if (choice != "auto" && choice != "shm" && choice != "ucx") {
    return absl::InvalidArgumentError(absl::StrCat(
        "unknown transport \"", choice, "\"; known are auto, shm, ucx"));
  }
  Transports transports;
  if (choice != "ucx") {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::Transport> shm,
                          transport::MakeShmTransport());
    transports.push_back(std::move(shm));
  }
  const std::string missing = WhyNoUcx();
  if (choice == "ucx" && !missing.empty()) {
    return absl::UnimplementedError(missing);
  }
  if (choice != "shm" && missing.empty()) {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::Transport> ucx,
                          transport::MakeUcxTransport({}));
    transports.push_back(std::move(ucx));
  }
  return transports;
}

session::RankMemory MemoryAt(const Addresses& addresses) {
  session::RankMemory memory;
  std::map<std::pair<uint64_t, int64_t>, int32_t> area_of;
  for (const auto& [address, bytes] : addresses) {
    const auto [it, is_new] = area_of.try_emplace(
        {address, bytes}, static_cast<int32_t>(memory.areas.size()));
    if (is_new) {
      memory.areas.push_back(
          {absl::MakeSpan(reinterpret_cast<std::byte*>(address),
                          static_cast<size_t>(bytes)),
           nullptr});
    }
    memory.stored.push_back({it->second, 0});
  }
  return memory;
}

}  // namespace weft::python
