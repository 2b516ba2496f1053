// GPUs made of host memory, for tests: what is built on memory::DeviceDriver
// runs on them as it runs on the real ones, but that their "kernels" are host
// code (convert/testing/host_program.h). A handle that was exported opens at
// another address, as in another process.
#ifndef WEFT_MEMORY_TESTING_FAKE_DEVICE_H_
#define WEFT_MEMORY_TESTING_FAKE_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "weft/memory/buffer.h"
#include "weft/memory/device.h"
#include "weft/memory/shared_mapping.h"

namespace weft::memory {

// Thread-safe. Must outlive all that it gave.
class FakeDeviceDriver : public DeviceDriver {
 public:
  explicit FakeDeviceDriver(int num_devices) : num_devices_(num_devices) {}

  // From now on no GPU reaches another.
  void CutLinks() { linked_ = false; }
  // Of the questions whether a queue is idle that come from now on, the first
  // `idle` are answered as ever, the next `busy` with no.
  void HoldPolls(int64_t idle, int64_t busy) {
    polls_ = 0;
    first_held_ = idle;
    end_held_ = idle + busy;
  }
  // What a framework has queued in a stream of its own, and no GPU has done
  // yet: `work` is done when a queue waits for the stream.
  void QueueInStream(uintptr_t stream, std::function<void()> work);
  // The next Allocate gives memory that says it is of this kind.
  void MakeNext(DeviceAllocationKind kind, bool exportable);
  // From now on `buffer`, which is shared, is an allocation of `device`; until
  // its memory is given again.
  void Adopt(int device, const Buffer& buffer);
  int64_t num_opens() const { return num_opens_; }
  int64_t num_open() const;
  int64_t num_pinned() const { return num_pinned_; }

  std::string description() const override { return "fake GPUs"; }
  int num_devices() const override { return num_devices_; }
  absl::StatusOr<DeviceInfo> Describe(int device) override;
  absl::StatusOr<DeviceLink> LinkBetween(int from, int to) override;
  absl::StatusOr<std::byte*> Allocate(int device, int64_t bytes,
                                      DeviceAllocationKind kind) override;
  absl::Status Free(int device, std::byte* address) override;
  absl::StatusOr<DeviceAllocation> Find(const std::byte* address) override;
  absl::StatusOr<DeviceHandle> Export(
      const DeviceAllocation& allocation) override;
  absl::StatusOr<std::byte*> Open(int device, const DeviceHandle& handle,
                                  int64_t bytes) override;
  absl::Status Close(int device, const DeviceHandle& handle, std::byte* address,
                     int64_t bytes) override;
  absl::Status EnablePeer(int device, int owner) override;
  absl::Status Pin(std::byte* address, int64_t bytes) override;
  absl::Status Unpin(std::byte* address) override;
  absl::StatusOr<std::unique_ptr<DeviceQueue>> MakeQueue(int device) override;

 private:
  friend class FakeQueue;
  struct Made {
    DeviceAllocation allocation;
    int fd = -1;
    std::unique_ptr<Buffer> buffer;  // null when adopted
  };
  absl::Status CheckDevice(int device) const;
  void RunStream(uintptr_t stream);
  // Adopted memory that overlaps `place` was unmapped since.
  void ForgetAdopted(const Buffer& place);

  const int num_devices_;
  std::atomic<bool> linked_{true};
  std::atomic<int64_t> polls_{0};
  std::atomic<int64_t> first_held_{0};
  std::atomic<int64_t> end_held_{0};
  std::atomic<int64_t> num_opens_{0};
  std::atomic<int64_t> num_pinned_{0};
  mutable std::mutex mutex_;  // guards all below
  std::map<const std::byte*, Made> made_;
  std::map<std::byte*, std::shared_ptr<SharedMapping>> opened_;
  std::multimap<uintptr_t, std::function<void()>> streams_;
  uint64_t last_id_ = 0;
  DeviceAllocationKind next_kind_ = DeviceAllocationKind::kPlain;
  bool next_exportable_ = true;
};

}  // namespace weft::memory

#endif  // WEFT_MEMORY_TESTING_FAKE_DEVICE_H_
