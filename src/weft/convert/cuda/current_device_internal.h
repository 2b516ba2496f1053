// The device that calls of the CUDA runtime are for.
#ifndef WEFT_CONVERT_CUDA_CURRENT_DEVICE_INTERNAL_H_
#define WEFT_CONVERT_CUDA_CURRENT_DEVICE_INTERNAL_H_

#include "absl/status/status.h"

namespace weft::convert::cuda {

// Makes the primary context of `device`, which frameworks use too, this
// thread's while it lives, and leaves the thread as it was. Not by
// cudaSetDevice: to go back to a device, the runtime makes a context there, so
// that whoever works on GPU 1 had half a gigabyte on GPU 0 and 150 ms less
// (CUDA 12 and up).
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  // kUnavailable: nothing is current.
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_CURRENT_DEVICE_INTERNAL_H_
