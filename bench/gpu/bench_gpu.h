// Figures of one or two GPUs, each beside the bound of the same run.
#ifndef WEFT_BENCH_GPU_BENCH_GPU_H_
#define WEFT_BENCH_GPU_BENCH_GPU_H_

#include "absl/status/status.h"
#include "bench_case.h"

namespace weft::bench {

// What programs of convert/cuda reach: between two devices, and in the memory
// of one. Rows between devices are left out, with a sentence, where only one
// is. kUnavailable without a device.
absl::Status BenchGpuKernels(const BenchOptions& options);

}  // namespace weft::bench

#endif  // WEFT_BENCH_GPU_BENCH_GPU_H_
