#include "weft/memory/opened_handles.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::memory {

OpenedAllocation::~OpenedAllocation() {
  driver_.Close(device_, handle_, address_, bytes_).IgnoreError();
}

absl::StatusOr<std::shared_ptr<OpenedAllocation>> OpenedHandles::Open(
    int device, const Name& name, int64_t bytes,
    absl::FunctionRef<absl::StatusOr<DeviceHandle>()> fetch) {
  // Held while the driver opens: a second caller must not open it again.
  const std::lock_guard lock(mutex_);
  std::erase_if(by_name_,
                [](const auto& each) { return each.second.expired(); });
  std::weak_ptr<OpenedAllocation>& known = by_name_[{device, name}];
  if (auto open = known.lock()) {
    if (open->size_bytes() == bytes) return open;
    return absl::InvalidArgumentError(
        absl::StrCat("an allocation of ", open->size_bytes(),
                     " bytes is said to have ", bytes));
  }
  WEFT_ASSIGN_OR_RETURN(DeviceHandle handle, fetch());
  absl::StatusOr<std::byte*> address = driver_.Open(device, handle, bytes);
  // The mapping keeps the memory; the descriptor was only its messenger.
  if (handle.fd >= 0) close(std::exchange(handle.fd, -1));
  if (!address.ok()) return address.status();
  std::shared_ptr<OpenedAllocation> open(new OpenedAllocation(
      driver_, device, std::move(handle), *address, bytes));
  known = open;
  ++opened_;
  return open;
}

OpenedHandles::Counts OpenedHandles::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts{.opened = opened_};
  for (const auto& [name, weak] : by_name_) {
    const auto open = weak.lock();
    if (open == nullptr) continue;
    ++counts.open;
    counts.bytes += open->size_bytes();
  }
  return counts;
}

}  // namespace weft::memory
