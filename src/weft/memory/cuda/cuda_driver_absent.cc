#include "weft/memory/cuda/cuda_driver.h"

namespace weft::memory {

absl::StatusOr<DeviceDriver*> CudaDriver() {
  return absl::UnavailableError("this weft was built without CUDA");
}

}  // namespace weft::memory
