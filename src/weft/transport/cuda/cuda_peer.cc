#include "weft/transport/cuda/cuda_peer.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/device_copies.h"

namespace weft::transport::cuda {
namespace {

const CudaRemoteRegion& Ours(const RemoteRegion& remote) {
  return static_cast<const CudaRemoteRegion&>(remote);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteRegion>> CudaPeer::Import(
    std::string_view bytes) {
  WEFT_ASSIGN_OR_RETURN(const DeviceKey key, DecodeDeviceKey(bytes));
  auto region = std::make_unique<CudaRemoteRegion>();
  WEFT_ASSIGN_OR_RETURN(region->host, host_->Import(key.host_key));
  if (key.on_device) {
    WEFT_RETURN_IF_ERROR(base::Annotate(OpenDevice(key, *region), label()));
  }
  return region;
}

absl::Status CudaPeer::OpenDevice(const DeviceKey& key,
                                  CudaRemoteRegion& region) {
  region.mapped_for = device_;
  region.size = key.size_bytes;
  const absl::StatusOr<int> owner = driver_.FindDevice(key.uuid);
  if (owner.ok()) {
    WEFT_ASSIGN_OR_RETURN(const memory::DeviceLink link,
                          driver_.LinkBetween(device_, *owner));
    if (!link.reachable) {
      return absl::UnavailableError(absl::StrCat(
          "GPU ", device_, " has no peer access to GPU ", *owner,
          ": neither NVLink nor PCIe peer to peer joins them; the transport "
          "ucx reads it through memory of the host"));
    }
  }
  if (key.process_id == getpid()) {
    // A process cannot open its own handle, and need not.
    WEFT_RETURN_IF_ERROR(owner.status());
    WEFT_RETURN_IF_ERROR(driver_.EnablePeer(device_, *owner));
    region.address = reinterpret_cast<std::byte*>(key.address);
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<memory::OpenedAllocation>> open =
      handles_->Open(device_, {key.exporter, key.allocation},
                     key.allocation_bytes, [&] { return FetchHandle(key); });
  if (!open.ok()) {
    return base::Annotate(
        open.status(),
        absl::StrCat("opening ", key.allocation_bytes, " bytes of GPU ",
                     key.uuid,
                     owner.ok() ? ""
                                : ", which this process does not see "
                                  "(CUDA_VISIBLE_DEVICES)",
                     " for GPU ", device_));
  }
  region.allocation = *std::move(open);
  region.address = region.allocation->data() + key.offset_bytes;
  return absl::OkStatus();
}

absl::StatusOr<memory::DeviceHandle> CudaPeer::FetchHandle(
    const DeviceKey& key) {
  memory::DeviceHandle handle{.kind = key.kind, .bytes = key.handle};
  if (key.kind != memory::DeviceAllocationKind::kVirtual) return handle;
  const int process =
      static_cast<int>(syscall(SYS_pidfd_open, key.process_id, 0));
  if (process >= 0) {
    handle.fd = static_cast<int>(syscall(SYS_pidfd_getfd, process, key.fd, 0));
  }
  const int error = errno;
  if (process >= 0) close(process);
  if (handle.fd >= 0) return handle;
  const std::string message =
      absl::StrCat("cannot take descriptor ", key.fd, " from process ",
                   key.process_id, ": ", std::strerror(error));
  if (error == EPERM || error == ENOSYS) {
    return absl::PermissionDeniedError(absl::StrCat(
        message,
        "; allow tracing (kernel.yama.ptrace_scope = 0, or CAP_SYS_PTRACE)"));
  }
  return absl::UnavailableError(message);
}

absl::StatusOr<memory::DeviceQueue*> CudaPeer::Queue() {
  if (queue_ == nullptr) {
    WEFT_ASSIGN_OR_RETURN(queue_, driver_.MakeQueue(device_));
  }
  return queue_.get();
}

absl::Status CudaPeer::Copy(const CudaRemoteRegion& region,
                            int64_t remote_offset_bytes, std::byte* dst,
                            const std::byte* src, size_t bytes, OpTag tag) {
  const auto count = static_cast<int64_t>(bytes);
  WEFT_RETURN_IF_ERROR(
      CheckRange(label(), remote_offset_bytes, count, region.size));
  WEFT_RETURN_IF_ERROR(Health());
  WEFT_ASSIGN_OR_RETURN(memory::DeviceQueue* const queue, Queue());
  WEFT_RETURN_IF_ERROR(queue->Copy(dst, src, count));
  queued_.push_back({tag, region.host.get()});
  return absl::OkStatus();
}

absl::Status CudaPeer::Get(const RemoteRegion& remote,
                           int64_t remote_offset_bytes,
                           absl::Span<std::byte> local,
                           const Region* /*local_region*/, OpTag tag) {
  const CudaRemoteRegion& region = Ours(remote);
  if (!region.on_device()) {
    return host_->Get(*region.host, remote_offset_bytes, local, nullptr, tag);
  }
  return Copy(region, remote_offset_bytes, local.data(),
              region.address + remote_offset_bytes, local.size(), tag);
}

absl::Status CudaPeer::Put(const RemoteRegion& remote,
                           int64_t remote_offset_bytes,
                           absl::Span<const std::byte> local,
                           const Region* /*local_region*/, OpTag tag) {
  const CudaRemoteRegion& region = Ours(remote);
  if (!region.on_device()) {
    return host_->Put(*region.host, remote_offset_bytes, local, nullptr, tag);
  }
  return Copy(region, remote_offset_bytes, region.address + remote_offset_bytes,
              local.data(), local.size(), tag);
}

absl::Status CudaPeer::Gather(const RemoteRegion& remote,
                              const StridedPieces& pieces,
                              absl::Span<std::byte> local,
                              const Region* /*local_region*/, OpTag tag) {
  const CudaRemoteRegion& region = Ours(remote);
  if (!region.on_device()) {
    return host_->Gather(*region.host, pieces, local, nullptr, tag);
  }
  WEFT_RETURN_IF_ERROR(CheckPieces(label(), pieces, region.size,
                                   static_cast<int64_t>(local.size())));
  WEFT_RETURN_IF_ERROR(Health());
  WEFT_ASSIGN_OR_RETURN(memory::DeviceQueue* const queue, Queue());
  WEFT_RETURN_IF_ERROR(QueuePieces(*queue, region.address, pieces, 0,
                                   local.data(),
                                   static_cast<int64_t>(local.size())));
  queued_.push_back({tag, region.host.get()});
  return absl::OkStatus();
}

void CudaPeer::PassOn() {
  if (queued_.empty()) return;
  const absl::StatusOr<bool> idle = queue_->Idle();
  if (idle.ok() && !*idle) return;
  for (const Queued& each : queued_) {
    absl::Status status = idle.status();
    if (status.ok()) status = host_->Get(*each.mark, 0, {}, nullptr, each.tag);
    if (!status.ok()) failed_.push_back({each.tag, std::move(status)});
  }
  queued_.clear();
}

int CudaPeer::Poll(std::vector<Completion>& completions) {
  PassOn();
  completions.insert(completions.end(), failed_.begin(), failed_.end());
  const int failed = static_cast<int>(failed_.size());
  failed_.clear();
  return failed + host_->Poll(completions);
}

absl::Status CudaPeer::Flush(base::Deadline deadline) {
  if (!queued_.empty()) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        queue_->Wait(deadline, "flushing transfers of the GPU"), label()));
    PassOn();
  }
  return host_->Flush(deadline);
}

}  // namespace weft::transport::cuda
