#include "weft/transport/ucx/ucx_transport.h"

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/region_key.h"
#include "weft/transport/ucx/ucx_context_internal.h"
#include "weft/transport/ucx/ucx_peer_internal.h"
#include "weft/transport/ucx/ucx_server_internal.h"
#include "weft/transport/ucx/ucx_worker_internal.h"

namespace weft::transport {
namespace {

// Constants, not measured on this host. Shared memory and tcp: UCX 1.13 on a
// two-core host, short operations windowed and long ones one at a time. RDMA:
// one 400 Gb/s port with UCX's cost per operation.
Capabilities CostOf(ucx::Wire wire) {
  Capabilities cost{.posted = true, .gather = true, .foreign_memory = true};
  switch (wire) {
    case ucx::Wire::kTcp:
      cost.posted_seconds_per_op = 1.2e-6;
      cost.posted_bytes_per_second = 2.5e9;
      cost.gather_seconds_per_op = 2e-5;
      cost.gather_bytes_per_second = 2.5e9;
      break;
    case ucx::Wire::kSharedMemory:
      cost.posted_seconds_per_op = 4e-7;
      // 1 MiB reads as messages: docs/numbers.md.
      cost.posted_bytes_per_second = 5e9;
      cost.gather_seconds_per_op = 1e-5;
      cost.gather_bytes_per_second = 5e9;
      break;
    case ucx::Wire::kRdma:
      cost.posted_seconds_per_op = 4e-7;
      cost.posted_bytes_per_second = 4.5e10;
      cost.gather_seconds_per_op = 1e-5;
      cost.gather_bytes_per_second = 8e9;
      break;
  }
  return cost;
}

class UcxTransport final : public Transport {
 public:
  UcxTransport(const UcxOptions& options, std::shared_ptr<ucx::Context> context,
               uint64_t instance, std::shared_ptr<RegionTable> regions,
               std::unique_ptr<ucx::Server> server)
      : options_(options),
        copier_(options.driver),
        device_one_sided_(options.emulated_rma ? absl::OkStatus()
                                               : context->CheckDeviceMemory()),
        context_(std::move(context)),
        instance_(instance),
        regions_(std::move(regions)),
        server_(std::move(server)) {
    base::ByteWriter writer;
    writer.U64(instance_);
    writer.Bytes(server_->address());
    address_ = Seal(ucx::kLeaf, "address", writer.bytes());
  }

  std::string_view name() const override { return ucx::kLeaf; }

  std::string description() const override {
    absl::MutexLock lock(&mutex_);
    return absl::StrCat(
        "ucx ", ucx::Context::Version(), " (",
        lanes_.empty() ? "not connected yet" : lanes_, ")",
        options_.driver == nullptr ? ""
        : device_one_sided_.ok()
            ? ", memory of GPUs too"
            : absl::StrCat(", memory of GPUs through the host: ",
                           std::string(device_one_sided_.message())));
  }

  // By the lanes of the peer that was connected last; before, as for tcp.
  Capabilities capabilities() const override {
    absl::MutexLock lock(&mutex_);
    Capabilities cost = CostOf(ucx::FastestWire(lanes_));
    cost.device_memory = options_.driver != nullptr;
    cost.device_seconds_per_op = 3.2e-6;
    cost.device_bytes_per_second = 3.5e11;
    return cost;
  }

  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    WEFT_RETURN_IF_ERROR(CheckRegistration(memory, buffer, true));
    const int device = buffer == nullptr ? copier_.DeviceOf(memory.data())
                                         : memory::kHostMemory;
    return ucx::UcxRegion::Make(context_, regions_, instance_, memory, buffer,
                                device, device_one_sided_);
  }

  absl::StatusOr<std::unique_ptr<Peer>> Connect(
      std::string_view address, std::string label,
      base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(const std::string payload,
                          Unseal(ucx::kLeaf, "address", address));
    base::ByteReader reader(payload);
    const uint64_t instance = reader.U64();
    const std::string ucx_address(reader.Bytes());
    if (!reader.Finish("address").ok() || ucx_address.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the ucx address of ", label, " is malformed"));
    }
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<ucx::UcxPeer> peer,
        ucx::UcxPeer::Make(context_, instance, std::move(label),
                           {.import_timeout = options_.import_timeout,
                            .emulated_rma = options_.emulated_rma,
                            .driver = options_.driver,
                            .device = options_.device,
                            .device_one_sided = device_one_sided_}));
    const absl::Status connected = peer->Connect(ucx_address, deadline);
    absl::MutexLock lock(&mutex_);
    DropAbandoned();
    if (connected.ok()) {
      lanes_ = peer->lanes();
      return peer;
    }
    if (absl::IsDeadlineExceeded(connected)) {
      abandoned_.push_back(std::move(peer));
    }
    return connected;
  }

 private:
  void DropAbandoned() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<std::unique_ptr<ucx::UcxPeer>> kept;
    for (std::unique_ptr<ucx::UcxPeer>& peer : abandoned_) {
      peer->Health().IgnoreError();  // hears what has arrived
      if (!peer->heard_or_lost()) kept.push_back(std::move(peer));
    }
    abandoned_ = std::move(kept);
  }

  const UcxOptions options_;
  const DeviceCopier copier_;  // asked where memory lies
  const absl::Status device_one_sided_;
  const std::shared_ptr<ucx::Context> context_;
  const uint64_t instance_;
  const std::shared_ptr<RegionTable> regions_;
  const std::unique_ptr<ucx::Server> server_;
  std::string address_;
  mutable absl::Mutex mutex_;
  std::string lanes_ ABSL_GUARDED_BY(mutex_);
  // Peers that did not answer in time; see UcxPeer::Connect.
  std::vector<std::unique_ptr<ucx::UcxPeer>> abandoned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(
    const UcxOptions& options) {
  if (options.driver != nullptr && options.device != memory::kHostMemory) {
    // UCX looks for GPUs when it starts, and finds those that the process has
    // begun to use: else it would have no wire to them.
    WEFT_RETURN_IF_ERROR(options.driver->MakeQueue(options.device).status());
  }
  WEFT_ASSIGN_OR_RETURN(
      std::shared_ptr<ucx::Context> context,
      ucx::Context::Make(options.settings,
                         options.driver == nullptr || options.emulated_rma));
  const uint64_t instance = RandomId();
  auto regions = std::make_shared<RegionTable>();
  WEFT_ASSIGN_OR_RETURN(
      std::unique_ptr<ucx::Server> server,
      ucx::Server::Start(context, instance, regions, options.driver));
  return std::make_unique<UcxTransport>(options, std::move(context), instance,
                                        std::move(regions), std::move(server));
}

}  // namespace weft::transport
