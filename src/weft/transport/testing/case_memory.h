// Where the memory of a conformance case lies: with the host, or on GPUs (real
// ones, or fake ones), whose bytes a test reads and writes by their driver.
#ifndef WEFT_TRANSPORT_TESTING_CASE_MEMORY_H_
#define WEFT_TRANSPORT_TESTING_CASE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"
#include "weft/transport/transport.h"

namespace weft::transport {

struct CasePlaces {
  memory::DeviceDriver* driver = nullptr;  // null: all of it is the host's
  int region_device = memory::kHostMemory;
  int local_device = memory::kHostMemory;
};

// Of the test that runs; its fixture sets it.
CasePlaces& TheCasePlaces();

// Patterns (pattern.h) in memory of either kind.
void Fill(absl::Span<std::byte> memory, uint64_t seed, int64_t first_index = 0);
int64_t Mismatch(absl::Span<const std::byte> memory, uint64_t seed,
                 int64_t first_index = 0);
std::vector<std::byte> ToHost(absl::Span<const std::byte> memory);

// Memory on `device` (or of the host) that is all `fill`.
class CaseMemory {
 public:
  CaseMemory(size_t bytes, int device, std::byte fill = {});
  CaseMemory(CaseMemory&&) = default;
  CaseMemory& operator=(CaseMemory&&) = default;
  absl::Span<std::byte> span() const { return span_; }
  size_t size() const { return span_.size(); }
  // As a vector is taken where a span is wanted.
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator absl::Span<const std::byte>() const { return span_; }

 private:
  std::vector<std::byte> host_;
  std::unique_ptr<memory::DeviceBuffer> device_;
  absl::Span<std::byte> span_;
};

// What the driver of a transport reads into and writes from.
class LocalMemory : public CaseMemory {
 public:
  explicit LocalMemory(size_t bytes, std::byte fill = {})
      : CaseMemory(bytes, TheCasePlaces().local_device, fill) {}
};

// Memory of one kind, filled with a pattern, and its registration.
struct PatternedRegion {
  std::unique_ptr<memory::Buffer> buffer;  // null for foreign memory
  std::unique_ptr<CaseMemory> foreign;
  std::unique_ptr<Region> region;
  absl::Span<std::byte> memory;
};
enum class Kind { kShared, kHost, kForeign };
std::unique_ptr<PatternedRegion> MakeRegion(Transport& transport, Kind kind,
                                            int64_t bytes, uint64_t seed);
// The same for the side that reads and writes.
std::unique_ptr<PatternedRegion> MakeLocalRegion(Transport& transport,
                                                 Kind kind, int64_t bytes,
                                                 uint64_t seed);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_TESTING_CASE_MEMORY_H_
