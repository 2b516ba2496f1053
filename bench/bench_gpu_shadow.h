#ifndef WEFT_BENCH_BENCH_GPU_SHADOW_H_
#define WEFT_BENCH_BENCH_GPU_SHADOW_H_

#include "absl/status/status.h"
#include "bench_case.h"
#include "rank_store.h"

namespace weft::bench {

// How long an engine stands still that receives beside what it serves.
absl::Status BenchGpuShadow(const BenchOptions& options,
                            const apps::DeviceChoice& device);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_GPU_SHADOW_H_
