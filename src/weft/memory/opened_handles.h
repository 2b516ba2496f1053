// Peers' device memory that this process has opened: each allocation once for
// each GPU, however many regions and refits use it, and closed with the last of
// them. Opening costs milliseconds a gigabyte, so the same mapping serves every
// refit.
#ifndef WEFT_MEMORY_OPENED_HANDLES_H_
#define WEFT_MEMORY_OPENED_HANDLES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "weft/memory/device.h"

namespace weft::memory {

// An allocation of a peer as this process sees it; closed when destroyed.
class OpenedAllocation {
 public:
  ~OpenedAllocation();
  std::byte* data() const { return address_; }
  int64_t size_bytes() const { return bytes_; }
  int device() const { return device_; }

 private:
  friend class OpenedHandles;
  OpenedAllocation(DeviceDriver& driver, int device, DeviceHandle handle,
                   std::byte* address, int64_t bytes)
      : driver_(driver),
        device_(device),
        handle_(std::move(handle)),
        address_(address),
        bytes_(bytes) {}
  DeviceDriver& driver_;
  const int device_;
  const DeviceHandle handle_;
  std::byte* const address_;
  const int64_t bytes_;
};

// Thread-safe. The driver must outlive it and all that it gave.
class OpenedHandles {
 public:
  explicit OpenedHandles(DeviceDriver& driver) : driver_(driver) {}

  // One of the exporting process's allocations: its endpoint, which no other
  // process and no later life of it shares, and the allocation's id there.
  struct Name {
    uint64_t exporter = 0;
    uint64_t allocation = 0;
    auto operator<=>(const Name&) const = default;
  };
  // `fetch` gives the handle; it is called only when nothing is open yet.
  absl::StatusOr<std::shared_ptr<OpenedAllocation>> Open(
      int device, const Name& name, int64_t bytes,
      absl::FunctionRef<absl::StatusOr<DeviceHandle>()> fetch);

  struct Counts {
    int64_t open = 0;    // now
    int64_t bytes = 0;   // of these
    int64_t opened = 0;  // ever
  };
  Counts counts() const;

 private:
  DeviceDriver& driver_;
  mutable std::mutex mutex_;  // guards all below
  std::map<std::pair<int, Name>, std::weak_ptr<OpenedAllocation>> by_name_;
  int64_t opened_ = 0;
};

}  // namespace weft::memory

#endif  // WEFT_MEMORY_OPENED_HANDLES_H_
