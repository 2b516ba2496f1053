// Work that keeps a GPU busy while something else is measured beside it: what a
// serving engine does, in its two extremes.
#ifndef WEFT_BENCH_GPU_GPU_LOAD_H_
#define WEFT_BENCH_GPU_GPU_LOAD_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::bench {

// A stream of equal launches. One thread at a time.
class GpuLoad {
 public:
  // Bound by arithmetic: bf16 [8192,8192] x [8192,8192] of cuBLAS, "gemm", if
  // its library is there (WEFT_CUBLAS_LIBRARY names the file; else the loader
  // looks for libcublas.so.13 and .12). Else "mma-loop": tensor cores on values
  // in registers, which touches no memory and is no matrix product.
  static absl::StatusOr<std::unique_ptr<GpuLoad>> MakeGemm(int device);
  // Bound by memory, as decoding is: reads 256 MiB a launch, past all caches.
  static absl::StatusOr<std::unique_ptr<GpuLoad>> MakeRead(int device);

  virtual ~GpuLoad() = default;
  virtual std::string name() const = 0;
  // What work() counts: "TFLOP/s" or "GB/s", by the second.
  virtual std::string unit() const = 0;
  // Of one launch.
  virtual double work() const = 0;
  // Queues some milliseconds of it; that many launches.
  virtual absl::StatusOr<int> Launch() = 0;
  virtual absl::Status Wait() = 0;
};

}  // namespace weft::bench

#endif  // WEFT_BENCH_GPU_GPU_LOAD_H_
