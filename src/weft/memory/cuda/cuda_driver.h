// The driver of NVIDIA GPUs, found at run time: a program that links this runs
// on machines without one too.
#ifndef WEFT_MEMORY_CUDA_CUDA_DRIVER_H_
#define WEFT_MEMORY_CUDA_CUDA_DRIVER_H_

#include "absl/status/statusor.h"
#include "weft/memory/device.h"

namespace weft::memory {

// The one of this process; lives as long as it. kUnavailable says why there is
// none: this Weft was built without CUDA, no driver is installed, no GPU is
// visible.
absl::StatusOr<DeviceDriver*> CudaDriver();

}  // namespace weft::memory

#endif  // WEFT_MEMORY_CUDA_CUDA_DRIVER_H_
