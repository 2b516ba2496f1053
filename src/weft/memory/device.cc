#include "weft/memory/device.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::memory {
namespace {

// A copy of a few MiB takes tens of microseconds: until then the thread looks
// again at once, later it lets others run.
constexpr std::chrono::microseconds kSpin{200};
constexpr std::chrono::seconds kFillPatience{60};

}  // namespace

absl::Status DeviceQueue::Wait(base::Deadline deadline, const char* what) {
  const auto begin = base::Deadline::Clock::now();
  while (true) {
    WEFT_ASSIGN_OR_RETURN(const bool idle, Idle());
    if (idle) return absl::OkStatus();
    WEFT_RETURN_IF_ERROR(deadline.Check(what));
    if (base::Deadline::Clock::now() - begin > kSpin) {
      std::this_thread::yield();
    }
  }
}

absl::StatusOr<int> DeviceDriver::FindDevice(const std::string& uuid) {
  for (int device = 0; device < num_devices(); ++device) {
    WEFT_ASSIGN_OR_RETURN(const DeviceInfo info, Describe(device));
    if (info.uuid == uuid) return device;
  }
  return absl::NotFoundError(absl::StrCat("GPU ", uuid, " is not among the ",
                                          num_devices(),
                                          " that this process sees"));
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> DeviceBuffer::Allocate(
    DeviceDriver& driver, int device, int64_t bytes,
    DeviceAllocationKind kind) {
  if (bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  // An empty buffer has an address too.
  const int64_t allocated = bytes < kDevicePageBytes
                                ? std::max<int64_t>(bytes, 1)
                                : base::AlignUp(bytes, kDevicePageBytes);
  WEFT_ASSIGN_OR_RETURN(std::byte* const address,
                        driver.Allocate(device, allocated, kind));
  std::unique_ptr<DeviceBuffer> buffer(
      new DeviceBuffer(driver, device, address, bytes));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceQueue> queue,
                        driver.MakeQueue(device));
  WEFT_RETURN_IF_ERROR(queue->Fill(address, 0, allocated));
  WEFT_RETURN_IF_ERROR(queue->Wait(base::Deadline::After(kFillPatience),
                                   "filling device memory with zeros"));
  return buffer;
}

DeviceBuffer::~DeviceBuffer() { driver_.Free(device_, address_).IgnoreError(); }

absl::StatusOr<int> ParseDevice(const std::string& text) {
  if (text == "cuda") return 0;
  int device = -1;
  if (text.rfind("cuda:", 0) != 0 ||
      !absl::SimpleAtoi(text.substr(5), &device) || device < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "unknown device \"", text, "\"; write cuda or cuda:1, or cpu"));
  }
  return device;
}

}  // namespace weft::memory
