#include "weft/transport/nixl/nixl_transport.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "weft/base/status.h"
#include "weft/topology/host.h"
#include "weft/transport/access.h"
#include "weft/transport/nixl/nixl_peer_internal.h"
#include "weft/transport/nixl/nixl_server_internal.h"
#include "weft/transport/region_key.h"

namespace weft::transport {
namespace {

class NixlTransport final : public Transport {
 public:
  NixlTransport(const NixlOptions& options, std::shared_ptr<nixl::Agent> agent,
                uint64_t instance, std::string host)
      : options_(options),
        agent_(std::move(agent)),
        mail_(std::make_shared<nixl::Mail>(agent_)),
        instance_(instance),
        host_(std::move(host)),
        regions_(std::make_shared<RegionTable>()),
        server_(nixl::Server::Start(agent_, mail_, instance_, regions_,
                                    options_.driver)),
        address_(nixl::Address{.instance = instance_,
                               .agent = agent_->name(),
                               .connection = agent_->connection(),
                               .host = host_,
                               .process = getpid()}
                     .Encode()) {}

  std::string_view name() const override { return "nixl"; }

  std::string description() const override {
    return agent_->library().Describe();
  }

  Capabilities capabilities() const override {
    // As measured between two processes of one host (cma, docs/numbers.md):
    // NIXL does not tell which wire its UCX takes.
    return {.posted = true,
            .gather = true,
            .foreign_memory = true,
            .device_memory = options_.driver != nullptr,
            .posted_seconds_per_op = 4e-6,
            .posted_bytes_per_second = 3e9,
            .gather_seconds_per_op = 1e-4,
            .gather_bytes_per_second = 1.5e9,
            // Two H200s (docs/numbers.md), with the progress thread that serves
            // this process's own peers.
            .device_seconds_per_op = 6e-6,
            .device_bytes_per_second = 2.5e11,
            .device_gather_seconds_per_op = 1e-4,
            .device_gather_bytes_per_second = 1e11};
  }

  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    WEFT_RETURN_IF_ERROR(CheckRegistration(memory, buffer, true));
    int device = memory::kHostMemory;
    if (buffer == nullptr && options_.driver != nullptr && !memory.empty()) {
      const auto found = options_.driver->Find(memory.data());
      if (found.ok()) device = found->device;
    }
    return nixl::NixlRegion::Make(agent_, regions_, instance_, memory, buffer,
                                  device);
  }

  absl::StatusOr<std::unique_ptr<Peer>> Connect(
      std::string_view address, std::string label,
      base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(nixl::Address decoded,
                          nixl::Address::Decode(address));
    auto peer = std::make_unique<nixl::NixlPeer>(
        agent_, mail_, std::move(decoded), std::move(label),
        nixl::PeerOptions{.import_timeout = options_.import_timeout,
                          .driver = options_.driver,
                          .device = options_.device});
    WEFT_RETURN_IF_ERROR(peer->Connect(host_, deadline));
    return peer;
  }

 private:
  const NixlOptions options_;
  const std::shared_ptr<nixl::Agent> agent_;
  const std::shared_ptr<nixl::Mail> mail_;
  const uint64_t instance_;
  const std::string host_;
  const std::shared_ptr<RegionTable> regions_;
  const std::unique_ptr<nixl::Server> server_;
  const std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeNixlTransport(
    const NixlOptions& options) {
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const nixl::Library> library,
                        nixl::Library::Load(options.library));
  const uint64_t instance = RandomId();
  WEFT_ASSIGN_OR_RETURN(
      std::shared_ptr<nixl::Agent> agent,
      nixl::Agent::Make(std::move(library),
                        absl::StrFormat("weft-%016x", instance),
                        options.fake_gpus));
  // Without it a killed peer of this host is noticed later, by its connection.
  const absl::StatusOr<topology::HostId> host = topology::ReadHostId("/proc");
  return std::make_unique<NixlTransport>(
      options, std::move(agent), instance,
      host.ok() ? host->ToString() : std::string());
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>>
NixlEnvironment(const std::string& links, const std::string& library) {
  return nixl::Environment(library, links);
}

absl::StatusOr<std::string> FindNixl(const std::string& library) {
  WEFT_ASSIGN_OR_RETURN(const std::string path, nixl::FindLibrary(library));
  const std::string version = nixl::PackageVersion(path);
  return absl::StrCat("nixl ", version.empty() ? "unknown" : version, " (",
                      path, ")");
}

}  // namespace weft::transport
