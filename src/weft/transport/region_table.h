// The regions that one endpoint has registered.
#ifndef WEFT_TRANSPORT_REGION_TABLE_H_
#define WEFT_TRANSPORT_REGION_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <shared_mutex>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"

namespace weft::transport {

struct RegisteredRegion {
  uint64_t slot = 0;
  uint64_t generation = 0;
  absl::Span<std::byte> memory = {};
  // The kShared buffer that holds `memory`, or null.
  const memory::Buffer* shared_buffer = nullptr;
  int device = memory::kHostMemory;  // the GPU that holds it
};

// Thread-safe. A generation is given once, so that a key of a freed region
// never fits a later one in the same slot.
class RegionTable {
 public:
  RegisteredRegion Add(absl::Span<std::byte> memory,
                       const memory::Buffer* buffer,
                       int device = memory::kHostMemory);
  // Returns once no visitor is inside the region.
  void Remove(const RegisteredRegion& region);

  // Calls `visit` while the region cannot be removed; kNotFound if the table
  // does not hold it. `visit` must not block and not call the table.
  absl::Status Visit(
      uint64_t slot, uint64_t generation,
      absl::FunctionRef<absl::Status(const RegisteredRegion&)> visit) const;

 private:
  // Guards all below. Not absl::Mutex: Debian's is not instrumented, and
  // ThreadSanitizer would take its critical sections for races.
  mutable std::shared_mutex mutex_;
  std::vector<RegisteredRegion> slots_;
  std::vector<uint64_t> free_slots_;
  uint64_t last_generation_ = 0;
};

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_REGION_TABLE_H_
