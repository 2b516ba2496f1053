#ifndef WEFT_BENCH_BENCH_GPU_BESIDE_H_
#define WEFT_BENCH_BENCH_GPU_BESIDE_H_

#include "absl/status/status.h"
#include "bench_case.h"
#include "rank_store.h"

namespace weft::bench {

// What refits cost other work of the receiving GPU, and it them. Only where
// device code is compiled.
absl::Status BenchGpuBeside(const BenchOptions& options,
                            const apps::DeviceChoice& device);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_GPU_BESIDE_H_
