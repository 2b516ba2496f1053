// Memory, streams and clocks of the devices under measurement.
#ifndef WEFT_BENCH_GPU_DEVICE_PROBE_H_
#define WEFT_BENCH_GPU_DEVICE_PROBE_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/convert/cuda/program.h"

namespace weft::bench {

absl::Status CudaStatus(cudaError_t error, const char* what);

// A device with a stream and two events.
class DeviceProbe {
 public:
  // With access to the memory of `peer` unless it is -1.
  static absl::StatusOr<std::unique_ptr<DeviceProbe>> Make(int device,
                                                           int peer);
  ~DeviceProbe();
  DeviceProbe(const DeviceProbe&) = delete;
  DeviceProbe& operator=(const DeviceProbe&) = delete;

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  // Memory that lives as long as the probe, full of small bf16 values.
  absl::StatusOr<std::byte*> Allocate(int64_t bytes);

  // Seconds that what `submit` puts on the stream takes.
  absl::StatusOr<double> Seconds(const std::function<absl::Status()>& submit);
  absl::StatusOr<double> Seconds(convert::cuda::Program& program,
                                 const convert::cuda::LaunchOptions& options);

 private:
  explicit DeviceProbe(int device) : device_(device) {}

  const int device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// Writes bf16 values of a fixed sequence, magnitudes 2^-8 to 2^-1.
cudaError_t LaunchFill(std::byte* data, int64_t bytes, cudaStream_t stream);
// Reads all bytes and does next to nothing with them: the bound of a digest.
cudaError_t LaunchRead(const std::byte* data, int64_t bytes, int num_sms,
                       cudaStream_t stream);
// Tensor cores multiply values in registers, kMmaLoopFlop in all, in blocks of
// some 50 us, as those of a matrix product are.
inline constexpr int kMmaLoopBlocks = 33792;
inline constexpr int kMmaLoopWarps = 8;
inline constexpr int kMmaLoopRounds = 128;
inline constexpr int kMmaLoopChains = 4;  // independent, a warp
inline constexpr double kMmaLoopFlop = 2.0 * 16 * 16 * 16 * kMmaLoopBlocks *
                                       kMmaLoopWarps * kMmaLoopRounds *
                                       kMmaLoopChains;
cudaError_t LaunchMmaLoop(cudaStream_t stream);

}  // namespace weft::bench

#endif  // WEFT_BENCH_GPU_DEVICE_PROBE_H_
