// The active side: one connected peer.
#ifndef WEFT_TRANSPORT_CUDA_CUDA_PEER_H_
#define WEFT_TRANSPORT_CUDA_CUDA_PEER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/memory/device.h"
#include "weft/memory/opened_handles.h"
#include "weft/transport/cuda/device_key.h"
#include "weft/transport/transport.h"

namespace weft::transport::cuda {

// Of device memory, or of host memory (`allocation` null and `here` null).
class CudaRemoteRegion final : public RemoteRegion {
 public:
  int64_t size_bytes() const override {
    return on_device() ? size : host->size_bytes();
  }
  std::byte* mapped() const override {
    return on_device() ? address : host->mapped();
  }
  int device() const override { return mapped_for; }
  bool on_device() const { return mapped_for != memory::kHostMemory; }

  // The shm region, or the mark of a region of device memory.
  std::unique_ptr<RemoteRegion> host;
  int mapped_for = memory::kHostMemory;
  int64_t size = 0;
  std::byte* address = nullptr;
  // Null when the owner is this process.
  std::shared_ptr<memory::OpenedAllocation> allocation;
};

class CudaPeer final : public Peer {
 public:
  CudaPeer(std::unique_ptr<Peer> host, memory::DeviceDriver& driver, int device,
           std::shared_ptr<memory::OpenedHandles> handles)
      : host_(std::move(host)),
        driver_(driver),
        device_(device),
        handles_(std::move(handles)) {}

  const std::string& label() const override { return host_->label(); }
  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(
      std::string_view key) override;
  absl::Status Get(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<std::byte> local, const Region* local_region,
                   OpTag tag) override;
  absl::Status Put(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<const std::byte> local,
                   const Region* local_region, OpTag tag) override;
  absl::Status Gather(const RemoteRegion& remote, const StridedPieces& pieces,
                      absl::Span<std::byte> local, const Region* local_region,
                      OpTag tag) override;
  int Poll(std::vector<Completion>& completions) override;
  int64_t in_flight() const override {
    return static_cast<int64_t>(queued_.size() + failed_.size()) +
           host_->in_flight();
  }
  absl::Status Flush(base::Deadline deadline) override;
  absl::Status Health() override { return host_->Health(); }

 private:
  struct Queued {
    OpTag tag = 0;
    const RemoteRegion* mark = nullptr;
  };
  absl::Status OpenDevice(const DeviceKey& key, CudaRemoteRegion& region);
  absl::StatusOr<memory::DeviceHandle> FetchHandle(const DeviceKey& key);
  // Makes the queue at the first use.
  absl::StatusOr<memory::DeviceQueue*> Queue();
  absl::Status Copy(const CudaRemoteRegion& region, int64_t remote_offset_bytes,
                    std::byte* dst, const std::byte* src, size_t bytes,
                    OpTag tag);
  // Hands what the GPU has done to the host's peer, which says whether the
  // region was still there.
  void PassOn();

  const std::unique_ptr<Peer> host_;
  memory::DeviceDriver& driver_;
  const int device_;
  const std::shared_ptr<memory::OpenedHandles> handles_;
  std::vector<Queued> queued_;  // on the GPU
  std::vector<Completion> failed_;
  std::unique_ptr<memory::DeviceQueue> queue_;
};

}  // namespace weft::transport::cuda

#endif  // WEFT_TRANSPORT_CUDA_CUDA_PEER_H_
