#include "gpu_load.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "device_probe.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

// Some ms of launches are queued at a time, so that no host delays them.
constexpr int kGemmLaunches = 8;
constexpr int kReadLaunches = 128;
constexpr int kGemmExtent = 8192;
constexpr int64_t kReadBytes = int64_t{256} << 20;

// What is used of cuBLAS, which is not linked: its C interface, unchanged since
// version 11. The numbers are those of its header and of library_types.h.
struct Cublas {
  using Create = int (*)(void** handle);
  using Destroy = int (*)(void* handle);
  using SetStream = int (*)(void* handle, cudaStream_t stream);
  using GemmEx = int (*)(void* handle, int transa, int transb, int m, int n,
                         int k, const void* alpha, const void* a, int a_type,
                         int lda, const void* b, int b_type, int ldb,
                         const void* beta, void* c, int c_type, int ldc,
                         int compute_type, int algo);
  static constexpr int kTranspose = 1;
  static constexpr int kKeep = 0;
  static constexpr int kBF16 = 14;
  static constexpr int kComputeF32 = 68;
  static constexpr int kDefaultAlgo = -1;

  Create create = nullptr;
  Destroy destroy = nullptr;
  SetStream set_stream = nullptr;
  GemmEx gemm = nullptr;
};

absl::StatusOr<Cublas> LoadCublas() {
  const char* named = std::getenv("WEFT_CUBLAS_LIBRARY");
  void* library = nullptr;
  if (named != nullptr) {
    library = dlopen(named, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("WEFT_CUBLAS_LIBRARY cannot be loaded: ", dlerror()));
    }
  }
  for (const char* name : {"libcublas.so.13", "libcublas.so.12"}) {
    if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) return absl::NotFoundError("cuBLAS is not there");
  Cublas cublas;
  cublas.create =
      reinterpret_cast<Cublas::Create>(dlsym(library, "cublasCreate_v2"));
  cublas.destroy =
      reinterpret_cast<Cublas::Destroy>(dlsym(library, "cublasDestroy_v2"));
  cublas.set_stream =
      reinterpret_cast<Cublas::SetStream>(dlsym(library, "cublasSetStream_v2"));
  cublas.gemm =
      reinterpret_cast<Cublas::GemmEx>(dlsym(library, "cublasGemmEx"));
  if (cublas.create == nullptr || cublas.destroy == nullptr ||
      cublas.set_stream == nullptr || cublas.gemm == nullptr) {
    return absl::InvalidArgumentError(
        "the cuBLAS that was loaded lacks a function of version 11");
  }
  return cublas;
}

class ProbeLoad : public GpuLoad {
 public:
  explicit ProbeLoad(std::unique_ptr<DeviceProbe> probe)
      : probe_(std::move(probe)) {}
  absl::Status Wait() override {
    return CudaStatus(cudaStreamSynchronize(probe_->stream()),
                      "cudaStreamSynchronize");
  }

 protected:
  // CUDA's current device belongs to a thread.
  absl::Status TakeDevice() const {
    return CudaStatus(cudaSetDevice(probe_->device()), "cudaSetDevice");
  }
  const std::unique_ptr<DeviceProbe> probe_;
};

class CublasGemm final : public ProbeLoad {
 public:
  CublasGemm(std::unique_ptr<DeviceProbe> probe, const Cublas& cublas)
      : ProbeLoad(std::move(probe)), cublas_(cublas) {}
  ~CublasGemm() override {
    if (handle_ != nullptr) cublas_.destroy(handle_);
    cudaFree(a_), cudaFree(b_), cudaFree(c_);
  }
  absl::Status Start() {
    constexpr int64_t kBytes = int64_t{2} * kGemmExtent * kGemmExtent;
    for (std::byte** each : {&a_, &b_, &c_}) {
      WEFT_ASSIGN_OR_RETURN(*each, probe_->Allocate(kBytes));
    }
    WEFT_RETURN_IF_ERROR(Check(cublas_.create(&handle_), "cublasCreate"));
    return Check(cublas_.set_stream(handle_, probe_->stream()),
                 "cublasSetStream");
  }
  std::string name() const override { return "gemm"; }
  std::string unit() const override { return "TFLOP/s"; }
  double work() const override {
    return 2e-12 * kGemmExtent * kGemmExtent * kGemmExtent;
  }
  absl::StatusOr<int> Launch() override {
    WEFT_RETURN_IF_ERROR(TakeDevice());
    const float one = 1;
    const float zero = 0;
    for (int i = 0; i < kGemmLaunches; ++i) {
      WEFT_RETURN_IF_ERROR(
          Check(cublas_.gemm(handle_, Cublas::kTranspose, Cublas::kKeep,
                             kGemmExtent, kGemmExtent, kGemmExtent, &one, a_,
                             Cublas::kBF16, kGemmExtent, b_, Cublas::kBF16,
                             kGemmExtent, &zero, c_, Cublas::kBF16, kGemmExtent,
                             Cublas::kComputeF32, Cublas::kDefaultAlgo),
                "cublasGemmEx"));
    }
    return kGemmLaunches;
  }

 private:
  static absl::Status Check(int status, const char* what) {
    if (status == 0) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat(what, " of cuBLAS returns status ", status));
  }

  const Cublas cublas_;
  void* handle_ = nullptr;
  std::byte* a_ = nullptr;
  std::byte* b_ = nullptr;
  std::byte* c_ = nullptr;
};

class MmaLoop final : public ProbeLoad {
 public:
  using ProbeLoad::ProbeLoad;
  std::string name() const override { return "mma-loop"; }
  std::string unit() const override { return "TFLOP/s"; }
  double work() const override { return kMmaLoopFlop / 1e12; }
  absl::StatusOr<int> Launch() override {
    WEFT_RETURN_IF_ERROR(TakeDevice());
    for (int i = 0; i < kGemmLaunches; ++i) {
      WEFT_RETURN_IF_ERROR(
          CudaStatus(LaunchMmaLoop(probe_->stream()), "multiplying"));
    }
    return kGemmLaunches;
  }
};

class ReadLoad final : public ProbeLoad {
 public:
  using ProbeLoad::ProbeLoad;
  ~ReadLoad() override { cudaFree(data_); }
  absl::Status Start() {
    WEFT_ASSIGN_OR_RETURN(data_, probe_->Allocate(kReadBytes));
    return CudaStatus(
        cudaDeviceGetAttribute(&num_sms_, cudaDevAttrMultiProcessorCount,
                               probe_->device()),
        "cudaDeviceGetAttribute");
  }
  std::string name() const override { return "hbm-read"; }
  std::string unit() const override { return "GB/s"; }
  double work() const override { return kReadBytes / 1e9; }
  absl::StatusOr<int> Launch() override {
    WEFT_RETURN_IF_ERROR(TakeDevice());
    for (int i = 0; i < kReadLaunches; ++i) {
      WEFT_RETURN_IF_ERROR(
          CudaStatus(LaunchRead(data_, kReadBytes, num_sms_, probe_->stream()),
                     "reading"));
    }
    return kReadLaunches;
  }

 private:
  std::byte* data_ = nullptr;
  int num_sms_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuLoad>> GpuLoad::MakeGemm(int device) {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DeviceProbe> probe,
                        DeviceProbe::Make(device, -1));
  const absl::StatusOr<Cublas> cublas = LoadCublas();
  if (absl::IsNotFound(cublas.status())) {
    return std::make_unique<MmaLoop>(std::move(probe));
  }
  WEFT_RETURN_IF_ERROR(cublas.status());
  auto gemm = std::make_unique<CublasGemm>(std::move(probe), *cublas);
  WEFT_RETURN_IF_ERROR(gemm->Start());
  return gemm;
}

absl::StatusOr<std::unique_ptr<GpuLoad>> GpuLoad::MakeRead(int device) {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DeviceProbe> probe,
                        DeviceProbe::Make(device, -1));
  auto read = std::make_unique<ReadLoad>(std::move(probe));
  WEFT_RETURN_IF_ERROR(read->Start());
  return read;
}

}  // namespace weft::bench
