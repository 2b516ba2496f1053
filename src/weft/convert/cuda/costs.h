// What copies cost on a device, as measured (`weft bench gpu` prints each of
// these; docs/numbers.md, "On the GPU"). The lowering chooses by nothing else.
#ifndef WEFT_CONVERT_CUDA_COSTS_H_
#define WEFT_CONVERT_CUDA_COSTS_H_

#include <cstdint>

namespace weft::convert::cuda {

struct Costs {
  // Host time to submit one copy: alone, and as one of a batch.
  double engine_call_ns = 2400;
  double engine_batched_ns = 500;
  // Between one 2-D copy and the next the link stands still.
  double engine_start_ns = 4400;
  // A copy engine's time for a row of a 2-D copy, when rows are short.
  double engine_row_ns = 0.34;
  double engine_bytes_per_ns = 397;
  double kernel_bytes_per_ns = 372;
  // Rows shorter than this are the kernel's.
  int64_t engine_least_row_bytes = 64;
  // Whether the device has bulk copies, from compute capability 9.0 on.
  bool has_bulk_copies = true;
};

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_COSTS_H_
