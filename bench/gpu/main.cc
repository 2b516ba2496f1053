// gpu_bench [BYTES [RUNS]]: the rows of `weft bench gpu` that need no other
// process, as a program of their own.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "bench_gpu.h"

int main(int argc, char** argv) {
  weft::bench::BenchOptions options;
  if (argc > 1) options.bytes = std::atoll(argv[1]);
  if (argc > 2) options.runs = std::atoi(argv[2]);
  const absl::Status status = weft::bench::BenchGpuKernels(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "gpu_bench: %s\n", status.ToString().c_str());
  return 1;
}
