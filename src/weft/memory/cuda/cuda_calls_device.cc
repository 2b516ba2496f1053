#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "weft/memory/cuda/cuda_calls_internal.h"

namespace weft::memory {

#define WEFT_CUDA_TEXT_OF(name) #name
#define WEFT_CUDA_TEXT(name) WEFT_CUDA_TEXT_OF(name)

absl::StatusOr<CudaCalls> CudaCalls::Load() {
  // Never closed: the driver does not survive that.
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    return absl::UnavailableError(absl::StrCat(
        "no NVIDIA driver on this machine: ", std::string(dlerror())));
  }
  CudaCalls calls;
  std::string missing;
#define WEFT_CUDA_LOOK_UP(name)                              \
  calls.name##_ = reinterpret_cast<decltype(calls.name##_)>( \
      dlsym(library, WEFT_CUDA_TEXT(name)));                 \
  if (calls.name##_ == nullptr) {                            \
    absl::StrAppend(&missing, missing.empty() ? "" : ", ",   \
                    WEFT_CUDA_TEXT(name));                   \
  }
  WEFT_CUDA_CALLS(WEFT_CUDA_LOOK_UP)
#undef WEFT_CUDA_LOOK_UP
  if (!missing.empty()) {
    return absl::UnavailableError(absl::StrCat(
        "the NVIDIA driver of this machine is too old: it lacks ", missing));
  }
  if (const CUresult result = calls.cuInit_(0); result != CUDA_SUCCESS) {
    return absl::UnavailableError(
        std::string(calls.Check(result, "cuInit").message()));
  }
  return calls;
}

absl::Status CudaCalls::Check(CUresult result, const char* what) const {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const char* name = nullptr;
  const char* sentence = nullptr;
  cuGetErrorName_(result, &name);
  cuGetErrorString_(result, &sentence);
  const std::string message =
      absl::StrCat(what, " says ", name == nullptr ? "?" : name, " (",
                   sentence == nullptr ? "unknown" : sentence, ")");
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError(message);
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_DEVICE:
      return absl::InvalidArgumentError(message);
    case CUDA_ERROR_PEER_ACCESS_UNSUPPORTED:
    case CUDA_ERROR_INVALID_CONTEXT:
    case CUDA_ERROR_NO_DEVICE:
      return absl::UnavailableError(message);
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_NOT_PERMITTED:
      return absl::FailedPreconditionError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace weft::memory
