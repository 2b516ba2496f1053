#include "weft/transport/shm/shm_transport.h"

#include <unistd.h>

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/topology/host.h"
#include "weft/transport/access.h"
#include "weft/transport/region_key.h"
#include "weft/transport/shm/shm_peer.h"
#include "weft/transport/shm/shm_server.h"

namespace weft::transport {
namespace {

// Whether processes of one user may reach each other's memory. Root may in
// any case; a missing file means a kernel without the restriction.
bool HostAllowsForeignMemory() {
  std::ifstream file("/proc/sys/kernel/yama/ptrace_scope");
  int scope = 0;
  return !(file >> scope) || scope == 0 || geteuid() == 0;
}

class ShmRegion final : public Region {
 public:
  ShmRegion(std::shared_ptr<shm::SharedRegions> regions,
            RegisteredRegion region)
      : regions_(std::move(regions)),
        region_(region),
        key_(
            EncodeKey(shm::kLeaf,
                      {.instance = regions_->instance(),
                       .slot = region.slot,
                       .generation = region.generation,
                       .size_bytes = static_cast<int64_t>(region.memory.size()),
                       .mappable = region.shared_buffer != nullptr})) {}
  ~ShmRegion() override { regions_->Remove(region_); }
  absl::Span<std::byte> memory() const override { return region_.memory; }
  const std::string& key() const override { return key_; }

 private:
  const std::shared_ptr<shm::SharedRegions> regions_;
  const RegisteredRegion region_;
  const std::string key_;
};

class ShmTransport final : public Transport {
 public:
  ShmTransport(const ShmOptions& options, std::string host_id,
               const std::string& socket_name,
               std::shared_ptr<shm::SharedRegions> regions,
               std::unique_ptr<shm::Server> server)
      : options_(options),
        host_id_(std::move(host_id)),
        foreign_memory_(HostAllowsForeignMemory()),
        regions_(std::move(regions)),
        server_(std::move(server)) {
    base::ByteWriter writer;
    writer.Bytes(host_id_);
    writer.Bytes(socket_name);
    writer.U64(regions_->instance());
    address_ = Seal(shm::kLeaf, "address", writer.bytes());
  }

  std::string_view name() const override { return shm::kLeaf; }
  std::string description() const override {
    return foreign_memory_ ? "shm (memfd, process_vm_readv)" : "shm (memfd)";
  }
  Capabilities capabilities() const override {
    // Constants of a two-core host, not measured here: a system call for a
    // short transfer, one core's copy rate for a long one, and for a gather the
    // kernel's cost of pinning a page for each stretch.
    return {.mapped = true,
            .posted = true,
            .gather = true,
            .foreign_memory = foreign_memory_,
            .posted_seconds_per_op = 5e-7,
            .posted_bytes_per_second = 8e9,
            .gather_seconds_per_op = 1e-6,
            .gather_bytes_per_second = 2e9};
  }
  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    WEFT_RETURN_IF_ERROR(CheckRegistration(memory, buffer, foreign_memory_));
    WEFT_ASSIGN_OR_RETURN(const RegisteredRegion region,
                          regions_->Add(memory, buffer));
    return std::make_unique<ShmRegion>(regions_, region);
  }

  absl::StatusOr<std::unique_ptr<Peer>> Connect(
      std::string_view address, std::string label,
      base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(const std::string payload,
                          Unseal(shm::kLeaf, "address", address));
    base::ByteReader reader(payload);
    const std::string host_id(reader.Bytes());
    const std::string socket_name(reader.Bytes());
    const uint64_t instance = reader.U64();
    if (!reader.Finish("address").ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the shm address of ", label, " is malformed"));
    }
    if (host_id != host_id_) {
      return absl::UnavailableError(
          absl::StrCat(label, " is on another host or in another container (",
                       host_id, ", here ", host_id_, "); use ucx"));
    }
    return shm::ShmPeer::Connect(socket_name, instance, std::move(label),
                                 options_.import_timeout, deadline);
  }

 private:
  const ShmOptions options_;
  const std::string host_id_;
  const bool foreign_memory_;
  const std::shared_ptr<shm::SharedRegions> regions_;
  const std::unique_ptr<shm::Server> server_;
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeShmTransport(
    const ShmOptions& options) {
  const absl::StatusOr<topology::HostId> host = topology::ReadHostId("/proc");
  if (!host.ok()) {
    return absl::UnavailableError(std::string(host.status().message()));
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<shm::SharedRegions> regions,
                        shm::SharedRegions::Make());
  const std::string socket_name =
      absl::StrFormat("weft-%d-%016x%016x", getpid(), RandomId(), RandomId());
  absl::StatusOr<std::unique_ptr<shm::Server>> server =
      shm::Server::Start(socket_name, regions);
  if (!server.ok()) return base::Annotate(server.status(), "shm transport");
  return std::make_unique<ShmTransport>(options, host->ToString(), socket_name,
                                        std::move(regions), *std::move(server));
}

}  // namespace weft::transport
