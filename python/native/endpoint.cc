#include "endpoint.h"

#include <dlfcn.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/memory/cuda/cuda_driver.h"
#include "weft/transport/cuda/cuda_transport.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::python {
absl::StatusOr<std::shared_ptr<catalog::CatalogStore>> ConnectCatalog(
    const std::string& address, base::Deadline deadline) {
  catalog::GrpcClientOptions options;
  options.connect_timeout =
      std::min(options.connect_timeout, deadline.Remaining());
  options.reconnect_within = catalog::kReconnectWithin;
  options.access = catalog::WithEnvironment();
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

absl::StatusOr<Transports> MakeTransports(const std::string& choice,
                                          int device) {
  if (choice != "auto" && choice != "cuda" && choice != "shm" &&
      choice != "ucx") {
    return absl::InvalidArgumentError(absl::StrCat(
        "unknown transport \"", choice, "\"; known are auto, cuda, shm, ucx"));
  }
  const bool all = choice == "auto";
  const bool on_device = device != memory::kHostMemory;
  if (choice == "cuda" && !on_device) {
    return absl::InvalidArgumentError(
        "the transport cuda serves tensors on a GPU, and none is");
  }
  Transports transports;
  memory::DeviceDriver* driver = nullptr;
  if (on_device) {
    WEFT_ASSIGN_OR_RETURN(driver, memory::CudaDriver());
  }
  if (on_device && (all || choice == "cuda")) {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Transport> cuda,
        transport::MakeCudaTransport({.driver = driver, .device = device}));
    transports.push_back(std::move(cuda));
  }
  if (all || choice == "shm") {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::Transport> shm,
                          transport::MakeShmTransport());
    transports.push_back(std::move(shm));
  }
  const std::string missing = WhyNoUcx();
  if (choice == "ucx" && !missing.empty()) {
    return absl::UnimplementedError(missing);
  }
  if ((all || choice == "ucx") && missing.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Transport> ucx,
        transport::MakeUcxTransport({.driver = driver, .device = device}));
    transports.push_back(std::move(ucx));
  }
  return transports;
}

absl::StatusOr<session::RankMemory> MemoryAt(const Addresses& addresses) {
  const absl::StatusOr<memory::DeviceDriver*> driver = memory::CudaDriver();
  session::RankMemory memory;
  std::map<std::pair<uint64_t, int64_t>, int32_t> area_of;
  for (const auto& [address, bytes] : addresses) {
    session::MemoryArea area{.bytes = {reinterpret_cast<std::byte*>(address),
                                       static_cast<size_t>(bytes)}};
    int64_t offset_bytes = 0;
    if (driver.ok() && bytes > 0) {
      const absl::StatusOr<memory::DeviceAllocation> found =
          (*driver)->Find(area.bytes.data());
      if (found.ok()) {
        offset_bytes = area.bytes.data() - found->base;
        // What leaves its allocation is refused when it is registered.
        if (bytes <= found->bytes - offset_bytes) {
          area.bytes = {found->base, static_cast<size_t>(found->bytes)};
        } else {
          offset_bytes = 0;
        }
        area.device = found->device;
      } else if (!absl::IsNotFound(found.status())) {
        return found.status();
      }
    }
    const auto [it, is_new] =
        area_of.try_emplace({reinterpret_cast<uint64_t>(area.bytes.data()),
                             static_cast<int64_t>(area.bytes.size())},
                            static_cast<int32_t>(memory.areas.size()));
    if (is_new) memory.areas.push_back(area);
    memory.stored.push_back({it->second, offset_bytes});
  }
  return memory;
}

execute::DeviceOptions DeviceOptionsFor(std::optional<uint64_t> stream) {
  execute::DeviceOptions options;
  const absl::StatusOr<memory::DeviceDriver*> driver = memory::CudaDriver();
  if (driver.ok()) options.driver = *driver;
  options.stream = stream.value_or(0);
  return options;
}

}  // namespace weft::python
