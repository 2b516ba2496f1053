// The driver's functions that Weft calls, looked up in libcuda.so.1 at run
// time. Included by *_device.cc only.
#ifndef WEFT_MEMORY_CUDA_CUDA_CALLS_INTERNAL_H_
#define WEFT_MEMORY_CUDA_CUDA_CALLS_INTERNAL_H_

#include <cuda.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Some of these names are macros for a newer version of the function; the
// version that the headers declare is the one that is looked up.
#define WEFT_CUDA_CALLS(X)          \
  X(cuInit)                         \
  X(cuDriverGetVersion)             \
  X(cuGetErrorName)                 \
  X(cuGetErrorString)               \
  X(cuDeviceGetCount)               \
  X(cuDeviceGet)                    \
  X(cuDeviceGetName)                \
  X(cuDeviceGetUuid)                \
  X(cuDeviceGetPCIBusId)            \
  X(cuDeviceTotalMem)               \
  X(cuDeviceGetAttribute)           \
  X(cuDeviceCanAccessPeer)          \
  X(cuDeviceGetP2PAttribute)        \
  X(cuDevicePrimaryCtxRetain)       \
  X(cuCtxPushCurrent)               \
  X(cuCtxPopCurrent)                \
  X(cuCtxEnablePeerAccess)          \
  X(cuCtxGetStreamPriorityRange)    \
  X(cuMemAlloc)                     \
  X(cuMemFree)                      \
  X(cuMemHostRegister)              \
  X(cuMemHostUnregister)            \
  X(cuPointerGetAttributes)         \
  X(cuIpcGetMemHandle)              \
  X(cuIpcOpenMemHandle)             \
  X(cuIpcCloseMemHandle)            \
  X(cuMemCreate)                    \
  X(cuMemRelease)                   \
  X(cuMemAddressReserve)            \
  X(cuMemAddressFree)               \
  X(cuMemMap)                       \
  X(cuMemUnmap)                     \
  X(cuMemSetAccess)                 \
  X(cuMemGetAllocationGranularity)  \
  X(cuMemRetainAllocationHandle)    \
  X(cuMemExportToShareableHandle)   \
  X(cuMemImportFromShareableHandle) \
  X(cuMemcpyAsync)                  \
  X(cuMemcpy2DAsync)                \
  X(cuMemsetD8Async)                \
  X(cuStreamCreateWithPriority)     \
  X(cuStreamDestroy)                \
  X(cuStreamQuery)                  \
  X(cuStreamSynchronize)            \
  X(cuStreamWaitEvent)              \
  X(cuEventCreate)                  \
  X(cuEventRecord)                  \
  X(cuEventDestroy)

namespace weft::memory {

struct CudaCalls {
#define WEFT_CUDA_MEMBER(name) decltype(&::name) name##_ = nullptr;
  WEFT_CUDA_CALLS(WEFT_CUDA_MEMBER)
#undef WEFT_CUDA_MEMBER

  // Loads the library and every function, and initialises the driver.
  static absl::StatusOr<CudaCalls> Load();

  // OK, or the driver's name and sentence for `result` after `what` with the
  // code that fits.
  absl::Status Check(CUresult result, const char* what) const;
};

}  // namespace weft::memory

#endif  // WEFT_MEMORY_CUDA_CUDA_CALLS_INTERNAL_H_
