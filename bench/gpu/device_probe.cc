#include "device_probe.h"

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::bench {

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

absl::StatusOr<std::unique_ptr<DeviceProbe>> DeviceProbe::Make(int device,
                                                               int peer) {
  std::unique_ptr<DeviceProbe> probe(new DeviceProbe(device));
  WEFT_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device), "cudaSetDevice"));
  if (peer >= 0) {
    const cudaError_t error = cudaDeviceEnablePeerAccess(peer, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
    } else {
      WEFT_RETURN_IF_ERROR(CudaStatus(error, "cudaDeviceEnablePeerAccess"));
    }
  }
  WEFT_RETURN_IF_ERROR(CudaStatus(
      cudaStreamCreateWithFlags(&probe->stream_, cudaStreamNonBlocking),
      "cudaStreamCreate"));
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaEventCreate(&probe->begin_), "cudaEventCreate"));
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaEventCreate(&probe->end_), "cudaEventCreate"));
  return probe;
}

DeviceProbe::~DeviceProbe() {
  cudaSetDevice(device_);
  if (begin_ != nullptr) cudaEventDestroy(begin_);
  if (end_ != nullptr) cudaEventDestroy(end_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::StatusOr<std::byte*> DeviceProbe::Allocate(int64_t bytes) {
  WEFT_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "cudaSetDevice"));
  void* memory = nullptr;
  // Freed with the process: a benchmark allocates once.
  WEFT_RETURN_IF_ERROR(CudaStatus(
      cudaMalloc(&memory, static_cast<size_t>(bytes)), "cudaMalloc"));
  WEFT_RETURN_IF_ERROR(CudaStatus(
      LaunchFill(static_cast<std::byte*>(memory), bytes, stream_), "filling"));
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"));
  return static_cast<std::byte*>(memory);
}

absl::StatusOr<double> DeviceProbe::Seconds(
    const std::function<absl::Status()>& submit) {
  WEFT_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "cudaSetDevice"));
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaEventRecord(begin_, stream_), "cudaEventRecord"));
  WEFT_RETURN_IF_ERROR(submit());
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaEventRecord(end_, stream_), "cudaEventRecord"));
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaEventSynchronize(end_), "cudaEventSynchronize"));
  float milliseconds = 0;
  WEFT_RETURN_IF_ERROR(
      CudaStatus(cudaEventElapsedTime(&milliseconds, begin_, end_),
                 "cudaEventElapsedTime"));
  return milliseconds / 1e3;
}

absl::StatusOr<double> DeviceProbe::Seconds(
    convert::cuda::Program& program,
    const convert::cuda::LaunchOptions& options) {
  return Seconds([&] { return program.Launch(stream_, options); });
}

}  // namespace weft::bench
