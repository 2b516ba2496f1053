// Copies by a GPU for leaves whose library cannot, or not all the way: packing
// of strided pieces, and the way of device memory through memory of the host.
#ifndef WEFT_TRANSPORT_DEVICE_COPIES_H_
#define WEFT_TRANSPORT_DEVICE_COPIES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/memory/device.h"
#include "weft/transport/transport.h"

namespace weft::transport {

// Queues the copies that put bytes [packed_offset_bytes, packed_offset_bytes +
// packed_bytes) of the packed result at `packed`; a row of pieces is one copy
// of the copy engines. `base` is the region's first byte; the pieces must have
// passed CheckPieces for it.
absl::Status QueuePieces(memory::DeviceQueue& queue, const std::byte* base,
                         const StridedPieces& pieces,
                         int64_t packed_offset_bytes, std::byte* packed,
                         int64_t packed_bytes);

// Copies between memory of the host and of GPUs that have come to their end
// when the call returns. One thread.
class DeviceCopier {
 public:
  // `driver` may be null: then all memory is the host's.
  explicit DeviceCopier(memory::DeviceDriver* driver) : driver_(driver) {}

  // The GPU that holds `address`, or memory::kHostMemory.
  int DeviceOf(const std::byte* address) const;
  // One end at least lies on `device`.
  absl::Status Copy(int device, std::byte* dst, const std::byte* src,
                    int64_t bytes);
  // As PackRange, by `device`, from and to memory that it reaches.
  absl::Status PackOnDevice(int device, const std::byte* base,
                            const StridedPieces& pieces,
                            int64_t packed_offset_bytes,
                            absl::Span<std::byte> packed);
  // As PackRange, from memory of `device` to memory of the host.
  absl::Status Pack(int device, const std::byte* base,
                    const StridedPieces& pieces, int64_t packed_offset_bytes,
                    absl::Span<std::byte> packed);

 private:
  struct Gpu {
    std::unique_ptr<memory::DeviceBuffer> packed;  // made at the first Pack
    std::unique_ptr<memory::DeviceQueue> queue;    // destroyed first
  };
  absl::StatusOr<Gpu*> Use(int device);

  memory::DeviceDriver* const driver_;
  std::map<int, Gpu> gpus_;
};

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_DEVICE_COPIES_H_
