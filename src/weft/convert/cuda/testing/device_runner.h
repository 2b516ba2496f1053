// Runs programs of host addresses on a device: each memory is mirrored there,
// at the same alignment and between guards.
#ifndef WEFT_CONVERT_CUDA_TESTING_DEVICE_RUNNER_H_
#define WEFT_CONVERT_CUDA_TESTING_DEVICE_RUNNER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "weft/convert/cuda/testing/runner.h"

namespace weft::convert::cuda::testing {

// `data_device`: where the memories that are not written lie, which may be a
// peer of `device`, on which kernels run.
absl::StatusOr<std::unique_ptr<Runner>> MakeDeviceRunner(int device,
                                                         int data_device);

}  // namespace weft::convert::cuda::testing

#endif  // WEFT_CONVERT_CUDA_TESTING_DEVICE_RUNNER_H_
