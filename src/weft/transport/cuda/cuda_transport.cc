#include "weft/transport/cuda/cuda_transport.h"

#include <unistd.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/cuda/cuda_peer.h"
#include "weft/transport/cuda/device_key.h"
#include "weft/transport/region_key.h"

namespace weft::transport {
namespace {

using cuda::DeviceKey;

class CudaRegion final : public Region {
 public:
  // `mark` is null for host memory, whose region is `host`.
  CudaRegion(absl::Span<std::byte> memory, std::unique_ptr<memory::Buffer> mark,
             std::unique_ptr<Region> host, DeviceKey key)
      : memory_(memory),
        mark_(std::move(mark)),
        host_(std::move(host)),
        fd_(static_cast<int>(key.fd)) {
    key.host_key = host_->key();
    key_ = cuda::EncodeDeviceKey(key);
  }
  ~CudaRegion() override {
    if (fd_ >= 0) close(fd_);
  }
  absl::Span<std::byte> memory() const override { return memory_; }
  const std::string& key() const override { return key_; }

 private:
  const absl::Span<std::byte> memory_;
  const std::unique_ptr<memory::Buffer> mark_;
  const std::unique_ptr<Region> host_;
  const int fd_;  // of virtual memory, for peers to take
  std::string key_;
};

class CudaTransport final : public Transport {
 public:
  CudaTransport(const CudaOptions& options, std::unique_ptr<Transport> host,
                std::shared_ptr<memory::OpenedHandles> handles,
                std::string description)
      : driver_(*options.driver),
        device_(options.device),
        host_(std::move(host)),
        handles_(std::move(handles)),
        description_(std::move(description)),
        instance_(RandomId()),
        address_(Seal(cuda::kLeaf, "address", host_->address())) {}

  std::string_view name() const override { return cuda::kLeaf; }
  std::string description() const override { return description_; }
  Capabilities capabilities() const override {
    Capabilities capabilities = host_->capabilities();
    capabilities.device_memory = true;
    return capabilities;
  }
  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    if (buffer == nullptr) {
      const absl::StatusOr<memory::DeviceAllocation> found =
          driver_.Find(memory.data());
      if (found.ok()) return RegisterDevice(memory, *found);
      if (!absl::IsNotFound(found.status())) return found.status();
    }
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Region> region,
                          host_->Register(memory, buffer));
    return std::make_unique<CudaRegion>(memory, nullptr, std::move(region),
                                        DeviceKey());
  }

  absl::StatusOr<std::unique_ptr<Peer>> Connect(
      std::string_view address, std::string label,
      base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(const std::string host_address,
                          Unseal(cuda::kLeaf, "address", address));
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<Peer> host,
        host_->Connect(host_address, std::move(label), deadline));
    return std::make_unique<cuda::CudaPeer>(std::move(host), driver_, device_,
                                            handles_);
  }

 private:
  absl::StatusOr<std::unique_ptr<Region>> RegisterDevice(
      absl::Span<std::byte> memory, const memory::DeviceAllocation& found) {
    DeviceKey key;
    key.on_device = true;
    key.size_bytes = static_cast<int64_t>(memory.size());
    key.exporter = instance_;
    key.process_id = getpid();
    key.address = reinterpret_cast<uintptr_t>(memory.data());
    key.allocation = found.id;
    key.allocation_bytes = found.bytes;
    key.offset_bytes = memory.data() - found.base;
    key.kind = found.kind;
    if (key.size_bytes > found.bytes - key.offset_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("memory of ", key.size_bytes, " bytes at offset ",
                       key.offset_bytes, " leaves its allocation of ",
                       found.bytes, " bytes on GPU ", found.device,
                       "; torch does so with PYTORCH_CUDA_ALLOC_CONF="
                       "expandable_segments:True, set it to False"));
    }
    WEFT_ASSIGN_OR_RETURN(const memory::DeviceInfo info,
                          driver_.Describe(found.device));
    key.uuid = info.uuid;
    WEFT_ASSIGN_OR_RETURN(const memory::DeviceHandle handle,
                          driver_.Export(found));
    key.handle = handle.bytes;
    key.fd = handle.fd;
    absl::StatusOr<std::unique_ptr<memory::Buffer>> mark =
        memory::Buffer::Allocate(memory::MemoryKind::kShared, 8);
    absl::StatusOr<std::unique_ptr<Region>> region =
        mark.ok() ? host_->Register((*mark)->span(), mark->get())
                  : mark.status();
    if (!region.ok()) {
      if (handle.fd >= 0) close(handle.fd);
      return region.status();
    }
    return std::make_unique<CudaRegion>(memory, *std::move(mark),
                                        *std::move(region), std::move(key));
  }

  memory::DeviceDriver& driver_;
  const int device_;
  const std::unique_ptr<Transport> host_;
  const std::shared_ptr<memory::OpenedHandles> handles_;
  const std::string description_;
  const uint64_t instance_;
  const std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeCudaTransport(
    const CudaOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const memory::DeviceInfo info,
                        options.driver->Describe(options.device));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Transport> host,
                        MakeShmTransport(options.shm));
  std::shared_ptr<memory::OpenedHandles> handles = options.handles;
  if (handles == nullptr) {
    handles = std::make_shared<memory::OpenedHandles>(*options.driver);
  }
  return std::make_unique<CudaTransport>(
      options, std::move(host), std::move(handles),
      absl::StrCat("cuda (", options.driver->description(), ", ", info.name,
                   " ", info.bus_id, ") with ", "shm for memory of the host"));
}

}  // namespace weft::transport
