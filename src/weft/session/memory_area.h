// The memory that a rank brings into a session: areas that Weft or the
// framework allocated, and where each stored tensor lies in them.
#ifndef WEFT_SESSION_MEMORY_AREA_H_
#define WEFT_SESSION_MEMORY_AREA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/manifest/binding.h"
#include "weft/manifest/placement.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"

namespace weft::session {

// `bytes` must stay valid while the session lives. `buffer` is the
// memory::Buffer that holds it, or nullptr for memory of a framework and for
// memory of a GPU.
struct MemoryArea {
  absl::Span<std::byte> bytes;
  const memory::Buffer* buffer = nullptr;
  int device = memory::kHostMemory;  // the GPU that holds it
};

// All memory of one rank: stored tensor i of the placement lies at
// `stored[i]` (area index, byte offset).
struct RankMemory {
  std::vector<MemoryArea> areas;
  std::vector<manifest::StoredLocation> stored;
};

// Memory for a placement, allocated by Weft as one shared, mappable buffer;
// stored tensors begin at multiples of 64 bytes, in placement order.
struct OwnedRankMemory {
  std::unique_ptr<memory::Buffer> buffer;
  RankMemory memory;
};
absl::StatusOr<OwnedRankMemory> AllocateFor(
    const manifest::Placement& placement, memory::MemoryKind kind);

// The same in the memory of a GPU, as one allocation that peers can open.
struct DeviceRankMemory {
  std::unique_ptr<memory::DeviceBuffer> buffer;
  RankMemory memory;
};
absl::StatusOr<DeviceRankMemory> AllocateOnDevice(
    const manifest::Placement& placement, memory::DeviceDriver& driver,
    int device);

// The GPU that holds areas of `memory`; memory::kHostMemory if none does.
// kInvalidArgument when several do: each GPU is a rank of its own.
absl::StatusOr<int> DeviceOf(const RankMemory& memory);

// Bytes of a stored tensor, overflow-checked.
absl::StatusOr<int64_t> StoredBytes(const layout::StoredTensor& stored);

// Checks that every stored tensor lies inside its area, all faults at once,
// kInvalidArgument.
absl::Status CheckRankMemory(const manifest::Placement& placement,
                             const RankMemory& memory);

// The same for memory that is received into, where no two stored tensors may
// share a byte: what arrives later would overwrite what was verified.
absl::Status CheckTargetMemory(const manifest::Placement& placement,
                               const RankMemory& memory);

// Base address of stored tensor `index`.
std::byte* StoredBase(const RankMemory& memory, size_t index);

}  // namespace weft::session

#endif  // WEFT_SESSION_MEMORY_AREA_H_
