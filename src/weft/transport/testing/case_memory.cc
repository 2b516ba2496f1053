#include "weft/transport/testing/case_memory.h"

#include <algorithm>
#include <chrono>

#include "gtest/gtest.h"
#include "weft/base/deadline.h"
#include "weft/transport/testing/pattern.h"

namespace weft::transport {
namespace {

int DeviceOf(const std::byte* address) {
  memory::DeviceDriver* const driver = TheCasePlaces().driver;
  if (driver == nullptr || address == nullptr) return memory::kHostMemory;
  const auto found = driver->Find(address);
  return found.ok() ? found->device : memory::kHostMemory;
}

void CopyNow(int device, std::byte* dst, const std::byte* src, size_t bytes) {
  if (bytes == 0) return;
  auto queue = TheCasePlaces().driver->MakeQueue(device);
  ASSERT_TRUE(queue.ok()) << queue.status();
  ASSERT_TRUE((*queue)->Copy(dst, src, static_cast<int64_t>(bytes)).ok());
  const auto patience = base::Deadline::After(std::chrono::seconds(60));
  ASSERT_TRUE((*queue)->Wait(patience, "a test's copy").ok());
}

}  // namespace

CasePlaces& TheCasePlaces() {
  static CasePlaces places;
  return places;
}

std::vector<std::byte> ToHost(absl::Span<const std::byte> memory) {
  const int device = DeviceOf(memory.data());
  if (device == memory::kHostMemory) return {memory.begin(), memory.end()};
  std::vector<std::byte> host(memory.size());
  CopyNow(device, host.data(), memory.data(), memory.size());
  return host;
}

void Fill(absl::Span<std::byte> memory, uint64_t seed, int64_t first_index) {
  const int device = DeviceOf(memory.data());
  if (device == memory::kHostMemory) {
    return FillPattern(memory, seed, first_index);
  }
  std::vector<std::byte> host(memory.size());
  FillPattern(absl::MakeSpan(host), seed, first_index);
  CopyNow(device, memory.data(), host.data(), host.size());
}

int64_t Mismatch(absl::Span<const std::byte> memory, uint64_t seed,
                 int64_t first_index) {
  if (DeviceOf(memory.data()) == memory::kHostMemory) {
    return FindMismatch(memory, seed, first_index);
  }
  return FindMismatch(ToHost(memory), seed, first_index);
}

CaseMemory::CaseMemory(size_t bytes, int device, std::byte fill) {
  host_.assign(bytes, fill);
  span_ = absl::MakeSpan(host_);
  if (device == memory::kHostMemory) return;
  auto buffer = memory::DeviceBuffer::Allocate(
      *TheCasePlaces().driver, device,
      std::max<int64_t>(1, static_cast<int64_t>(bytes)));
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  if (!buffer.ok()) return;
  device_ = *std::move(buffer);
  span_ = {device_->data(), bytes};
  CopyNow(device, device_->data(), host_.data(), bytes);
}

namespace {

std::unique_ptr<PatternedRegion> MakeRegionOn(int device, Transport& transport,
                                              Kind kind, int64_t bytes,
                                              uint64_t seed) {
  auto made = std::make_unique<PatternedRegion>();
  if (kind == Kind::kForeign || device != memory::kHostMemory) {
    made->foreign =
        std::make_unique<CaseMemory>(static_cast<size_t>(bytes), device);
    made->memory = made->foreign->span();
  } else {
    auto buffer = memory::Buffer::Allocate(kind == Kind::kShared
                                               ? memory::MemoryKind::kShared
                                               : memory::MemoryKind::kHost,
                                           bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    made->buffer = *std::move(buffer);
    made->memory = made->buffer->span();
  }
  Fill(made->memory, seed);
  auto region = transport.Register(made->memory, made->buffer.get());
  EXPECT_TRUE(region.ok()) << region.status();
  if (region.ok()) made->region = *std::move(region);
  return made;
}

}  // namespace

std::unique_ptr<PatternedRegion> MakeRegion(Transport& transport, Kind kind,
                                            int64_t bytes, uint64_t seed) {
  return MakeRegionOn(TheCasePlaces().region_device, transport, kind, bytes,
                      seed);
}

std::unique_ptr<PatternedRegion> MakeLocalRegion(Transport& transport,
                                                 Kind kind, int64_t bytes,
                                                 uint64_t seed) {
  return MakeRegionOn(TheCasePlaces().local_device, transport, kind, bytes,
                      seed);
}

}  // namespace weft::transport
