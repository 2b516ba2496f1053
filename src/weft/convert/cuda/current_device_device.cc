#include <cuda.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/convert/cuda/current_device_internal.h"

namespace weft::convert::cuda {
namespace {

// The driver is not linked (cmake/weft_cuda.cmake): the runtime finds its
// calls, as they were in this version of it.
constexpr unsigned kDriverVersion = 12000;

template <typename Call>
absl::Status Find(const char* name, Call& call) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      name, &found, kDriverVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) {
    return absl::UnavailableError(absl::StrCat("the CUDA driver has no ", name,
                                               ": ", cudaGetErrorString(error),
                                               ", ", int{result}));
  }
  call = reinterpret_cast<Call>(found);
  return absl::OkStatus();
}

class Contexts {
 public:
  static Contexts& Get() {
    // Never destroyed: programs may outlive main.
    static auto* const contexts = new Contexts;
    return *contexts;
  }

  absl::Status Push(int device) {
    WEFT_RETURN_IF_ERROR(found_);
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, Of(device));
    return ToStatus(push_(context), "making a context current", device);
  }
  void Pop() {
    CUcontext popped = nullptr;
    pop_(&popped);
  }

 private:
  Contexts() : found_(FindAll()) {}

  absl::Status FindAll() {
    WEFT_RETURN_IF_ERROR(Find("cuDevicePrimaryCtxRetain", retain_));
    WEFT_RETURN_IF_ERROR(Find("cuCtxPushCurrent", push_));
    return Find("cuCtxPopCurrent", pop_);
  }

  static absl::Status ToStatus(CUresult result, const char* what, int device) {
    if (result == CUDA_SUCCESS) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(
        what, " on GPU ", device, ": error ", int{result}, " of the driver"));
  }

  absl::StatusOr<CUcontext> Of(int device) {
    const std::lock_guard lock(mutex_);
    CUcontext& context = contexts_[device];
    if (context == nullptr) {
      WEFT_RETURN_IF_ERROR(
          ToStatus(retain_(&context, device), "taking the context", device));
    }
    return context;
  }

  decltype(&::cuDevicePrimaryCtxRetain) retain_ = nullptr;
  decltype(&::cuCtxPushCurrent) push_ = nullptr;
  decltype(&::cuCtxPopCurrent) pop_ = nullptr;
  const absl::Status found_;
  std::mutex mutex_;
  std::map<int, CUcontext> contexts_;  // kept while the process lives
};

}  // namespace

CurrentDevice::CurrentDevice(int device)
    : status_(Contexts::Get().Push(device)) {}

CurrentDevice::~CurrentDevice() {
  if (status_.ok()) Contexts::Get().Pop();
}

}  // namespace weft::convert::cuda
