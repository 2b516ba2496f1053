// What execution on GPUs needs, given by whoever knows that there are some.
#ifndef WEFT_EXECUTE_DEVICE_OPTIONS_H_
#define WEFT_EXECUTE_DEVICE_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "weft/convert/cuda/program.h"
#include "weft/memory/device.h"

namespace weft::execute {

struct DeviceOptions {
  // Null: this process uses no device memory. Outlives what it is given to.
  memory::DeviceDriver* driver = nullptr;
  // Tests give another one.
  std::function<absl::StatusOr<std::unique_ptr<convert::cuda::Program>>(
      int device, const convert::cuda::ProgramSpec&,
      const convert::cuda::ProgramOptions&)>
      build = convert::cuda::BuildProgram;
  convert::cuda::CopyWay copy_way = convert::cuda::CopyWay::kByCost;
  // Up to so many bytes a plan goes as one program of kernels in one queue,
  // whatever copy_way is: nothing waits for another queue or for a copy engine
  // to start, which is all the time that such a plan takes.
  int64_t small_plan_bytes = int64_t{1} << 20;
  // Multiprocessors that kernels may take; 0 = all.
  int num_sms = 0;
  // The stream in which a framework writes or reads the memory: work begins
  // after all that it holds. 0 is a stream too.
  std::optional<uintptr_t> stream = std::nullopt;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_DEVICE_OPTIONS_H_
