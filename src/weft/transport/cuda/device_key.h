// What a peer needs to know of a region of device memory.
#ifndef WEFT_TRANSPORT_CUDA_DEVICE_KEY_H_
#define WEFT_TRANSPORT_CUDA_DEVICE_KEY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "weft/memory/device.h"

namespace weft::transport::cuda {

inline constexpr std::string_view kLeaf = "cuda";

struct DeviceKey {
  bool on_device = false;
  // The shm region itself, or for device memory a region of 8 bytes that lives
  // as long as the registration.
  std::string host_key = {};
  // Only for device memory.
  int64_t size_bytes = 0;
  uint64_t exporter = 0;  // the endpoint
  int64_t process_id = 0;
  uint64_t address = 0;   // in that process
  std::string uuid = {};  // of the GPU
  uint64_t allocation = 0;
  int64_t allocation_bytes = 0;
  int64_t offset_bytes = 0;  // of the region in its allocation
  memory::DeviceAllocationKind kind = memory::DeviceAllocationKind::kPlain;
  std::string handle = {};
  int64_t fd = -1;  // kVirtual: the exporter's descriptor
};

std::string EncodeDeviceKey(const DeviceKey& key);
// kInvalidArgument for bytes that are no such key.
absl::StatusOr<DeviceKey> DecodeDeviceKey(std::string_view bytes);

}  // namespace weft::transport::cuda

#endif  // WEFT_TRANSPORT_CUDA_DEVICE_KEY_H_
