// Memory of GPUs at either end of what a peer moves.
#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/nixl/nixl_peer_internal.h"

namespace weft::transport::nixl {
namespace {

// Its completion is nobody else's.
constexpr OpTag kProbeTag = ~OpTag{0};
constexpr std::chrono::microseconds kProbeSleep{20};

}  // namespace

absl::Status NixlPeer::ProbeDevice(const NixlRemoteRegion& region,
                                   base::Deadline deadline) {
  std::array<std::byte, 1> byte;
  WEFT_RETURN_IF_ERROR(
      Get(region, 0, absl::MakeSpan(byte), nullptr, kProbeTag));
  const auto answered = [&] {
    return std::any_of(done_.begin(), done_.end(), [](const Completion& each) {
      return each.tag == kProbeTag;
    });
  };
  while (!answered() && death_.ok()) {
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(absl::StrCat(
          "deadline passed while reading memory of a GPU of ", label_));
    }
    TakeMessages();
    if (death_.ok()) CheckTransfers();
    LookAfterProcess();
    std::this_thread::sleep_for(kProbeSleep);
  }
  Settle();
  absl::Status status = death_;
  std::erase_if(done_, [&](const Completion& each) {
    if (each.tag == kProbeTag && status.ok()) status = each.status;
    return each.tag == kProbeTag;
  });
  return status;
}

absl::StatusOr<std::unique_ptr<NixlPeer::Between>> NixlPeer::MakeBetween(
    Operation operation, bool far_on_device, int local_device,
    absl::Span<const std::byte> local) {
  auto between = std::make_unique<Between>();
  between->bytes = static_cast<int64_t>(local.size());
  between->copied_by = far_on_device ? options_.device : local_device;
  if (between->copied_by == memory::kHostMemory) {
    return absl::UnimplementedError(absl::StrCat(
        "memory of a GPU of ", label_,
        " is read over nixl by a GPU, and this process uses none"));
  }
  if (far_on_device) {
    WEFT_ASSIGN_OR_RETURN(
        between->gpu, memory::DeviceBuffer::Allocate(
                          *options_.driver, options_.device, between->bytes));
    between->data = between->gpu->data();
  } else {
    WEFT_ASSIGN_OR_RETURN(
        between->host,
        memory::Buffer::Allocate(memory::MemoryKind::kHost, between->bytes));
    between->data = between->host->data();
  }
  if (operation == Operation::kRead) {
    between->read_into = const_cast<std::byte*>(local.data());
    return between;
  }
  WEFT_RETURN_IF_ERROR(copier_.Copy(between->copied_by, between->data,
                                    local.data(), between->bytes));
  return between;
}

absl::StatusOr<NixlPeer::Local> NixlPeer::FindLocal(
    Operation operation, bool far_on_device, absl::Span<const std::byte> local,
    const Region* local_region) {
  const auto* region = dynamic_cast<const NixlRegion*>(local_region);
  if (region != nullptr && region->agent() != agent_.get()) region = nullptr;
  const int device =
      region != nullptr ? region->device() : copier_.DeviceOf(local.data());
  Local found;
  if ((device != memory::kHostMemory) != far_on_device) {
    WEFT_ASSIGN_OR_RETURN(found.between,
                          MakeBetween(operation, far_on_device, device, local));
    found.memory =
        agent_->Name({found.between->data, local.size()},
                     far_on_device ? options_.device : memory::kHostMemory);
  } else if (region != nullptr) {
    found.memory = region->described();
    found.memory.address = reinterpret_cast<uint64_t>(local.data());
    found.memory.bytes = local.size();
    found.generation = region->generation();
  } else {
    found.memory = agent_->Name(local, device);
  }
  if (found.generation == 0) {
    WEFT_RETURN_IF_ERROR(agent_->Register(found.memory));
  }
  return found;
}

absl::Status NixlPeer::CopyHere(Operation operation, const Memory& local,
                                const Memory& remote) {
  auto* const near = reinterpret_cast<std::byte*>(local.address);
  auto* const far = reinterpret_cast<std::byte*>(remote.address);
  // The driver takes an address that it does not know for the host's.
  if (copier_.DeviceOf(far) == memory::kHostMemory) {
    return absl::UnavailableError(
        absl::StrCat("memory of a GPU of ", label_, " was freed"));
  }
  const bool reads = operation == Operation::kRead;
  return base::Annotate(
      copier_.Copy(static_cast<int>(remote.device), reads ? near : far,
                   reads ? far : near, static_cast<int64_t>(local.bytes)),
      label_);
}

}  // namespace weft::transport::nixl
