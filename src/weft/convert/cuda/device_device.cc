#include <cuda_runtime_api.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "weft/convert/cuda/program.h"

namespace weft::convert::cuda {

absl::Status DeviceAvailable() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrCat("no CUDA device: ", cudaGetErrorString(error)));
  }
  if (count == 0) return absl::UnavailableError("no CUDA device: none found");
  return absl::OkStatus();
}

}  // namespace weft::convert::cuda
