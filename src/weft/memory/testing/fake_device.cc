#include "weft/memory/testing/fake_device.h"

#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::memory {

class FakeQueue final : public DeviceQueue {
 public:
  FakeQueue(FakeDeviceDriver& driver, int device)
      : driver_(driver), device_(device) {}
  int device() const override { return device_; }
  absl::Status Copy(std::byte* dst, const std::byte* src,
                    int64_t bytes) override {
    std::memcpy(dst, src, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  absl::Status CopyRows(std::byte* dst, int64_t dst_stride_bytes,
                        const std::byte* src, int64_t src_stride_bytes,
                        int64_t row_bytes, int64_t rows) override {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(dst + row * dst_stride_bytes, src + row * src_stride_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return absl::OkStatus();
  }
  absl::Status Fill(std::byte* dst, uint8_t value, int64_t bytes) override {
    std::memset(dst, value, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  absl::Status WaitForStream(uintptr_t stream) override {
    driver_.RunStream(stream);
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Idle() override {
    const int64_t poll = driver_.polls_++;
    return poll < driver_.first_held_ || poll >= driver_.end_held_;
  }
  uintptr_t stream() const override { return 0; }

 private:
  FakeDeviceDriver& driver_;
  const int device_;
};

absl::Status FakeDeviceDriver::CheckDevice(int device) const {
  if (device >= 0 && device < num_devices_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("GPU ", device, " is not below ", num_devices_));
}

void FakeDeviceDriver::QueueInStream(uintptr_t stream,
                                     std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  streams_.emplace(stream, std::move(work));
}

void FakeDeviceDriver::RunStream(uintptr_t stream) {
  std::multimap<uintptr_t, std::function<void()>> queued;
  {
    const std::lock_guard lock(mutex_);
    const auto [first, end] = streams_.equal_range(stream);
    queued.insert(first, end);
    streams_.erase(first, end);
  }
  for (const auto& [id, work] : queued) work();
}

void FakeDeviceDriver::MakeNext(DeviceAllocationKind kind, bool exportable) {
  const std::lock_guard lock(mutex_);
  next_kind_ = kind;
  next_exportable_ = exportable;
}

int64_t FakeDeviceDriver::num_open() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(opened_.size());
}

absl::StatusOr<DeviceInfo> FakeDeviceDriver::Describe(int device) {
  WEFT_RETURN_IF_ERROR(CheckDevice(device));
  return DeviceInfo{.device = device,
                    .name = "fake",
                    .uuid = absl::StrCat("fake", device),
                    .bus_id = absl::StrCat("0000:0", device, ":00.0")};
}

absl::StatusOr<DeviceLink> FakeDeviceDriver::LinkBetween(int from, int to) {
  WEFT_RETURN_IF_ERROR(CheckDevice(from));
  WEFT_RETURN_IF_ERROR(CheckDevice(to));
  return DeviceLink{.reachable = from == to || linked_};
}

absl::StatusOr<std::byte*> FakeDeviceDriver::Allocate(
    int device, int64_t bytes, DeviceAllocationKind kind) {
  WEFT_RETURN_IF_ERROR(CheckDevice(device));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                        Buffer::Allocate(MemoryKind::kShared, bytes));
  const std::lock_guard lock(mutex_);
  ForgetAdopted(*buffer);
  Made made;
  made.allocation = {
      .device = device,
      .base = buffer->data(),
      .bytes = bytes,
      .id = ++last_id_,
      .kind = std::exchange(next_kind_, DeviceAllocationKind::kPlain),
      .exportable = std::exchange(next_exportable_, true)};
  if (kind == DeviceAllocationKind::kVirtual) made.allocation.kind = kind;
  made.fd = buffer->fd();
  made.buffer = std::move(buffer);
  std::byte* const base = made.allocation.base;
  made_.emplace(base, std::move(made));
  return base;
}

void FakeDeviceDriver::ForgetAdopted(const Buffer& place) {
  std::erase_if(made_, [&](const auto& each) {
    const DeviceAllocation& old = each.second.allocation;
    return each.second.buffer == nullptr &&
           old.base < place.data() + place.size_bytes() &&
           place.data() < old.base + old.bytes;
  });
}

void FakeDeviceDriver::Adopt(int device, const Buffer& buffer) {
  const std::lock_guard lock(mutex_);
  ForgetAdopted(buffer);
  Made made;
  made.allocation = {.device = device,
                     .base = buffer.data(),
                     .bytes = buffer.size_bytes(),
                     .id = ++last_id_};
  made.fd = buffer.fd();
  made_.emplace(buffer.data(), std::move(made));
}

absl::Status FakeDeviceDriver::Free(int, std::byte* address) {
  const std::lock_guard lock(mutex_);
  if (made_.erase(address) == 1) return absl::OkStatus();
  return absl::InvalidArgumentError("no such allocation");
}

absl::StatusOr<DeviceAllocation> FakeDeviceDriver::Find(
    const std::byte* address) {
  const std::lock_guard lock(mutex_);
  auto after = made_.upper_bound(address);
  if (after != made_.begin()) {
    const DeviceAllocation& found = std::prev(after)->second.allocation;
    if (address < found.base + found.bytes) return found;
  }
  return absl::NotFoundError("not in device memory");
}

absl::StatusOr<DeviceHandle> FakeDeviceDriver::Export(
    const DeviceAllocation& allocation) {
  if (!allocation.exportable) {
    return absl::FailedPreconditionError("memory that cannot be exported");
  }
  return DeviceHandle{.kind = DeviceAllocationKind::kPlain,
                      .bytes = absl::StrCat(allocation.id)};
}

absl::StatusOr<std::byte*> FakeDeviceDriver::Open(int device,
                                                  const DeviceHandle& handle,
                                                  int64_t bytes) {
  WEFT_RETURN_IF_ERROR(CheckDevice(device));
  uint64_t id = 0;
  const std::lock_guard lock(mutex_);
  if (!absl::SimpleAtoi(handle.bytes, &id)) {
    return absl::InvalidArgumentError("no handle");
  }
  for (const auto& [base, made] : made_) {
    if (made.allocation.id != id) continue;
    if (made.allocation.bytes != bytes) break;
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<SharedMapping> mapping,
                          SharedMapping::Map(made.fd));
    std::byte* const address = mapping->data();
    opened_.emplace(address, std::move(mapping));
    ++num_opens_;
    return address;
  }
  return absl::InvalidArgumentError("the handle opens nothing");
}

absl::Status FakeDeviceDriver::Close(int, const DeviceHandle&,
                                     std::byte* address, int64_t) {
  const std::lock_guard lock(mutex_);
  if (opened_.erase(address) == 1) return absl::OkStatus();
  return absl::InvalidArgumentError("not open");
}

absl::Status FakeDeviceDriver::EnablePeer(int device, int owner) {
  WEFT_ASSIGN_OR_RETURN(const DeviceLink link, LinkBetween(device, owner));
  if (link.reachable) return absl::OkStatus();
  return absl::UnavailableError("not linked");
}

absl::Status FakeDeviceDriver::Pin(std::byte*, int64_t) {
  ++num_pinned_;
  return absl::OkStatus();
}

absl::Status FakeDeviceDriver::Unpin(std::byte*) {
  --num_pinned_;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceQueue>> FakeDeviceDriver::MakeQueue(
    int device) {
  WEFT_RETURN_IF_ERROR(CheckDevice(device));
  return std::make_unique<FakeQueue>(*this, device);
}

}  // namespace weft::memory
