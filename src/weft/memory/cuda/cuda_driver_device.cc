#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/memory/cuda/cuda_calls_internal.h"
#include "weft/memory/cuda/cuda_driver.h"

namespace weft::memory {
namespace {

CUdeviceptr AsPointer(const std::byte* address) {
  return reinterpret_cast<CUdeviceptr>(address);
}
std::byte* AsAddress(CUdeviceptr pointer) {
  return reinterpret_cast<std::byte*>(pointer);
}

// A context is this thread's for as long as this lives.
class Current {
 public:
  Current(const CudaCalls& calls, CUcontext context) : calls_(calls) {
    pushed_ = calls_.cuCtxPushCurrent_(context) == CUDA_SUCCESS;
  }
  ~Current() {
    CUcontext popped = nullptr;
    if (pushed_) calls_.cuCtxPopCurrent_(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const CudaCalls& calls_;
  bool pushed_ = false;
};

class CudaQueue final : public DeviceQueue {
 public:
  CudaQueue(const CudaCalls& calls, int device, CUcontext context,
            CUstream stream)
      : calls_(calls), device_(device), context_(context), stream_(stream) {}
  ~CudaQueue() override {
    const Current current(calls_, context_);
    calls_.cuStreamSynchronize_(stream_);
    calls_.cuStreamDestroy_(stream_);
    if (event_ != nullptr) calls_.cuEventDestroy_(event_);
  }

  int device() const override { return device_; }
  uintptr_t stream() const override {
    return reinterpret_cast<uintptr_t>(stream_);
  }

  absl::Status Copy(std::byte* dst, const std::byte* src,
                    int64_t bytes) override {
    if (bytes == 0) return absl::OkStatus();
    const Current current(calls_, context_);
    return calls_.Check(
        calls_.cuMemcpyAsync_(AsPointer(dst), AsPointer(src),
                              static_cast<size_t>(bytes), stream_),
        "cuMemcpyAsync");
  }

  absl::Status CopyRows(std::byte* dst, int64_t dst_stride_bytes,
                        const std::byte* src, int64_t src_stride_bytes,
                        int64_t row_bytes, int64_t rows) override {
    if (row_bytes == 0 || rows == 0) return absl::OkStatus();
    CUDA_MEMCPY2D copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.srcDevice = AsPointer(src);
    copy.srcPitch = static_cast<size_t>(src_stride_bytes);
    copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.dstDevice = AsPointer(dst);
    copy.dstPitch = static_cast<size_t>(dst_stride_bytes);
    copy.WidthInBytes = static_cast<size_t>(row_bytes);
    copy.Height = static_cast<size_t>(rows);
    const Current current(calls_, context_);
    return calls_.Check(calls_.cuMemcpy2DAsync_(&copy, stream_),
                        "cuMemcpy2DAsync");
  }

  absl::Status Fill(std::byte* dst, uint8_t value, int64_t bytes) override {
    if (bytes == 0) return absl::OkStatus();
    const Current current(calls_, context_);
    return calls_.Check(
        calls_.cuMemsetD8Async_(AsPointer(dst), value,
                                static_cast<size_t>(bytes), stream_),
        "cuMemsetD8Async");
  }

  absl::Status WaitForStream(uintptr_t stream) override {
    const Current current(calls_, context_);
    if (event_ == nullptr) {
      WEFT_RETURN_IF_ERROR(
          calls_.Check(calls_.cuEventCreate_(&event_, CU_EVENT_DISABLE_TIMING),
                       "cuEventCreate"));
    }
    WEFT_RETURN_IF_ERROR(calls_.Check(
        calls_.cuEventRecord_(event_, reinterpret_cast<CUstream>(stream)),
        "cuEventRecord on the framework's stream"));
    // Waits for what was recorded last: the event may be recorded again.
    return calls_.Check(calls_.cuStreamWaitEvent_(stream_, event_, 0),
                        "cuStreamWaitEvent");
  }

  absl::StatusOr<bool> Idle() override {
    const Current current(calls_, context_);
    const CUresult result = calls_.cuStreamQuery_(stream_);
    if (result == CUDA_ERROR_NOT_READY) return false;
    WEFT_RETURN_IF_ERROR(
        calls_.Check(result, "work on the GPU: cuStreamQuery"));
    return true;
  }

 private:
  const CudaCalls& calls_;
  const int device_;
  const CUcontext context_;
  const CUstream stream_;
  CUevent event_ = nullptr;  // of WaitForStream; made by the first
};

class CudaDriverImpl final : public DeviceDriver {
 public:
  explicit CudaDriverImpl(CudaCalls calls) : calls_(calls) {}

  absl::Status Start() {
    int count = 0;
    if (calls_.cuDeviceGetCount_(&count) != CUDA_SUCCESS || count == 0) {
      return absl::UnavailableError(
          "an NVIDIA driver is here, but no GPU is visible");
    }
    calls_.cuDriverGetVersion_(&version_);
    contexts_.resize(static_cast<size_t>(count), nullptr);
    return absl::OkStatus();
  }

  std::string description() const override {
    return absl::StrCat("CUDA driver ", version_ / 1000, ".",
                        version_ % 1000 / 10, ", ", num_devices(),
                        num_devices() == 1 ? " GPU" : " GPUs");
  }
  int num_devices() const override {
    return static_cast<int>(contexts_.size());
  }

  absl::StatusOr<DeviceInfo> Describe(int device) override {
    WEFT_RETURN_IF_ERROR(CheckDevice(device));
    DeviceInfo info;
    info.device = device;
    std::array<char, 256> text = {};
    CUuuid uuid = {};
    size_t bytes = 0;
    WEFT_RETURN_IF_ERROR(
        calls_.Check(calls_.cuDeviceGetName_(text.data(), text.size(), device),
                     "cuDeviceGetName"));
    info.name = text.data();
    WEFT_RETURN_IF_ERROR(calls_.Check(
        calls_.cuDeviceGetPCIBusId_(text.data(), text.size(), device),
        "cuDeviceGetPCIBusId"));
    info.bus_id = text.data();
    WEFT_RETURN_IF_ERROR(calls_.Check(calls_.cuDeviceGetUuid_(&uuid, device),
                                      "cuDeviceGetUuid"));
    info.uuid = absl::BytesToHexString(
        absl::string_view(uuid.bytes, sizeof(uuid.bytes)));
    WEFT_RETURN_IF_ERROR(calls_.Check(calls_.cuDeviceTotalMem_(&bytes, device),
                                      "cuDeviceTotalMem"));
    info.total_bytes = static_cast<int64_t>(bytes);
    info.num_multiprocessors =
        Attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    info.major =
        Attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    info.minor =
        Attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    return info;
  }

  absl::StatusOr<DeviceLink> LinkBetween(int from, int to) override {
    WEFT_RETURN_IF_ERROR(CheckDevice(from));
    WEFT_RETURN_IF_ERROR(CheckDevice(to));
    DeviceLink link;
    if (from == to) {
      link.reachable = link.atomics = true;
      return link;
    }
    int reachable = 0;
    WEFT_RETURN_IF_ERROR(
        calls_.Check(calls_.cuDeviceCanAccessPeer_(&reachable, from, to),
                     "cuDeviceCanAccessPeer"));
    link.reachable = reachable != 0;
    int value = 0;
    if (calls_.cuDeviceGetP2PAttribute_(
            &value, CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK, from, to) ==
        CUDA_SUCCESS) {
      link.performance_rank = value;
    }
    if (calls_.cuDeviceGetP2PAttribute_(
            &value, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, from,
            to) == CUDA_SUCCESS) {
      link.atomics = value != 0;
    }
    return link;
  }

  absl::StatusOr<std::byte*> Allocate(int device, int64_t bytes,
                                      DeviceAllocationKind kind) override {
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(device));
    const Current current(calls_, context);
    if (kind == DeviceAllocationKind::kVirtual) {
      return AllocateVirtual(device, bytes);
    }
    CUdeviceptr pointer = 0;
    const CUresult result =
        calls_.cuMemAlloc_(&pointer, static_cast<size_t>(bytes));
    WEFT_RETURN_IF_ERROR(base::Annotate(
        calls_.Check(result, "cuMemAlloc"),
        absl::StrCat("cannot allocate ", bytes, " bytes on GPU ", device)));
    return AsAddress(pointer);
  }

  absl::Status Free(int device, std::byte* address) override {
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(device));
    const Current current(calls_, context);
    int64_t virtual_bytes = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto known = virtual_bytes_.find(address);
      if (known != virtual_bytes_.end()) {
        virtual_bytes = known->second;
        virtual_bytes_.erase(known);
      }
    }
    if (virtual_bytes > 0) return Unmap(address, virtual_bytes);
    return calls_.Check(calls_.cuMemFree_(AsPointer(address)), "cuMemFree");
  }

  absl::StatusOr<DeviceAllocation> Find(const std::byte* address) override;
  absl::StatusOr<DeviceHandle> Export(
      const DeviceAllocation& allocation) override;
  absl::StatusOr<std::byte*> Open(int device, const DeviceHandle& handle,
                                  int64_t bytes) override;

  absl::Status Close(int device, const DeviceHandle& handle, std::byte* address,
                     int64_t bytes) override {
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(device));
    const Current current(calls_, context);
    if (handle.kind == DeviceAllocationKind::kVirtual) {
      WEFT_ASSIGN_OR_RETURN(const int64_t mapped, WholePages(device, bytes));
      return Unmap(address, mapped);
    }
    return calls_.Check(calls_.cuIpcCloseMemHandle_(AsPointer(address)),
                        "cuIpcCloseMemHandle");
  }

  absl::Status EnablePeer(int device, int owner) override {
    if (device == owner) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(device));
    WEFT_ASSIGN_OR_RETURN(const CUcontext peer, ContextOf(owner));
    const Current current(calls_, context);
    const CUresult result = calls_.cuCtxEnablePeerAccess_(peer, 0);
    if (result == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) {
      return absl::OkStatus();
    }
    return base::Annotate(
        calls_.Check(result, "cuCtxEnablePeerAccess"),
        absl::StrCat("GPU ", device, " cannot reach GPU ", owner));
  }

  absl::Status Pin(std::byte* address, int64_t bytes) override {
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, AnyContext());
    const Current current(calls_, context);
    return calls_.Check(
        calls_.cuMemHostRegister_(
            address, static_cast<size_t>(bytes),
            CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP),
        "cuMemHostRegister");
  }
  absl::Status Unpin(std::byte* address) override {
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, AnyContext());
    const Current current(calls_, context);
    return calls_.Check(calls_.cuMemHostUnregister_(address),
                        "cuMemHostUnregister");
  }

  absl::StatusOr<std::unique_ptr<DeviceQueue>> MakeQueue(int device) override {
    WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(device));
    const Current current(calls_, context);
    // Before an engine's kernels: ours are short, take the multiprocessors that
    // they are given, and else wait for the end of each of a long kernel's
    // waves.
    int greatest = 0;
    WEFT_RETURN_IF_ERROR(
        calls_.Check(calls_.cuCtxGetStreamPriorityRange_(nullptr, &greatest),
                     "cuCtxGetStreamPriorityRange"));
    CUstream stream = nullptr;
    WEFT_RETURN_IF_ERROR(
        calls_.Check(calls_.cuStreamCreateWithPriority_(
                         &stream, CU_STREAM_NON_BLOCKING, greatest),
                     "cuStreamCreateWithPriority"));
    return std::make_unique<CudaQueue>(calls_, device, context, stream);
  }

 private:
  absl::Status CheckDevice(int device) const {
    if (device >= 0 && device < num_devices()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("GPU ", device, " is not below ", num_devices(),
                     ", the number of GPUs that this process sees"));
  }

  int Attribute(CUdevice_attribute attribute, int device) const {
    int value = 0;
    calls_.cuDeviceGetAttribute_(&value, attribute, device);
    return value;
  }

  // The context that the CUDA runtime, and so every framework, uses too.
  absl::StatusOr<CUcontext> ContextOf(int device) {
    WEFT_RETURN_IF_ERROR(CheckDevice(device));
    const std::lock_guard lock(mutex_);
    CUcontext& context = contexts_[static_cast<size_t>(device)];
    if (context == nullptr) {
      WEFT_RETURN_IF_ERROR(base::Annotate(
          calls_.Check(calls_.cuDevicePrimaryCtxRetain_(&context, device),
                       "cuDevicePrimaryCtxRetain"),
          absl::StrCat("GPU ", device)));
    }
    return context;
  }

  // One that is there already: what is pinned is so for all GPUs, and a GPU
  // that nobody uses gets no context by it.
  absl::StatusOr<CUcontext> AnyContext() {
    int device = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto used =
          std::find_if(contexts_.begin(), contexts_.end(),
                       [](CUcontext context) { return context != nullptr; });
      if (used != contexts_.end()) {
        device = static_cast<int>(used - contexts_.begin());
      }
    }
    return ContextOf(device);
  }

  static CUmemAllocationProp ShareableOn(int device) {
    CUmemAllocationProp wanted = {};
    wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    wanted.location.id = device;
    wanted.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    return wanted;
  }

  absl::StatusOr<int64_t> WholePages(int device, int64_t bytes) {
    const CUmemAllocationProp wanted = ShareableOn(device);
    size_t page_bytes = 0;
    WEFT_RETURN_IF_ERROR(calls_.Check(
        calls_.cuMemGetAllocationGranularity_(&page_bytes, &wanted,
                                              CU_MEM_ALLOC_GRANULARITY_MINIMUM),
        "cuMemGetAllocationGranularity"));
    return base::AlignUp(bytes, static_cast<int64_t>(page_bytes));
  }

  absl::Status Unmap(std::byte* address, int64_t bytes) {
    WEFT_RETURN_IF_ERROR(calls_.Check(
        calls_.cuMemUnmap_(AsPointer(address), static_cast<size_t>(bytes)),
        "cuMemUnmap"));
    return calls_.Check(calls_.cuMemAddressFree_(AsPointer(address),
                                                 static_cast<size_t>(bytes)),
                        "cuMemAddressFree");
  }

  // Maps `memory` for `device` at a fresh address; releases it, since the
  // mapping keeps it.
  absl::StatusOr<std::byte*> Map(int device,
                                 CUmemGenericAllocationHandle memory,
                                 int64_t bytes) {
    const auto size = static_cast<size_t>(bytes);
    CUdeviceptr pointer = 0;
    absl::Status status =
        calls_.Check(calls_.cuMemAddressReserve_(&pointer, size, 0, 0, 0),
                     "cuMemAddressReserve");
    if (status.ok()) {
      status = calls_.Check(calls_.cuMemMap_(pointer, size, 0, memory, 0),
                            "cuMemMap");
      if (!status.ok()) calls_.cuMemAddressFree_(pointer, size);
    }
    calls_.cuMemRelease_(memory);
    WEFT_RETURN_IF_ERROR(status);
    CUmemAccessDesc access = {};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    status = calls_.Check(calls_.cuMemSetAccess_(pointer, size, &access, 1),
                          "cuMemSetAccess");
    if (status.ok()) return AsAddress(pointer);
    Unmap(AsAddress(pointer), bytes).IgnoreError();
    return status;
  }

  absl::StatusOr<std::byte*> AllocateVirtual(int device, int64_t bytes) {
    WEFT_ASSIGN_OR_RETURN(const int64_t whole, WholePages(device, bytes));
    const CUmemAllocationProp wanted = ShareableOn(device);
    CUmemGenericAllocationHandle memory = 0;
    WEFT_RETURN_IF_ERROR(base::Annotate(
        calls_.Check(calls_.cuMemCreate_(&memory, static_cast<size_t>(whole),
                                         &wanted, 0),
                     "cuMemCreate"),
        absl::StrCat("cannot allocate ", bytes, " bytes on GPU ", device)));
    WEFT_ASSIGN_OR_RETURN(std::byte* const address, Map(device, memory, whole));
    const std::lock_guard lock(mutex_);
    virtual_bytes_[address] = whole;
    return address;
  }

  const CudaCalls calls_;
  int version_ = 0;
  std::mutex mutex_;  // guards what follows
  std::vector<CUcontext> contexts_;
  std::map<std::byte*, int64_t> virtual_bytes_;  // of what Allocate mapped
};

absl::StatusOr<DeviceAllocation> CudaDriverImpl::Find(
    const std::byte* address) {
  unsigned int memory_type = 0;
  int ordinal = 0;
  unsigned long long id = 0;
  unsigned int managed = 0;
  unsigned int legacy = 0;
  CUdeviceptr start = 0;
  size_t bytes = 0;
  CUmemoryPool pool = nullptr;
  unsigned long long allowed = 0;
  std::array<CUpointer_attribute, 9> asked = {
      CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
      CU_POINTER_ATTRIBUTE_BUFFER_ID,
      CU_POINTER_ATTRIBUTE_IS_MANAGED,
      CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
      CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
      CU_POINTER_ATTRIBUTE_RANGE_SIZE,
      CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE,
      CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES};
  std::array<void*, 9> answers = {&memory_type, &ordinal, &id,
                                  &managed,     &legacy,  &start,
                                  &bytes,       &pool,    &allowed};
  const CUresult result = calls_.cuPointerGetAttributes_(
      static_cast<unsigned int>(asked.size()), asked.data(), answers.data(),
      AsPointer(address));
  if (result != CUDA_SUCCESS ||
      (memory_type != CU_MEMORYTYPE_DEVICE && managed == 0)) {
    return absl::NotFoundError("the address is not in the memory of a GPU");
  }
  DeviceAllocation found;
  found.device = ordinal;
  found.base = AsAddress(start);
  found.bytes = static_cast<int64_t>(bytes);
  found.id = id;
  if (managed != 0) {
    found.kind = DeviceAllocationKind::kManaged;
    found.exportable = false;
  } else if (pool != nullptr) {
    found.kind = DeviceAllocationKind::kPool;
    found.exportable = false;
  } else if (legacy == 0) {
    found.kind = DeviceAllocationKind::kVirtual;
    found.exportable =
        (allowed & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0;
  }
  return found;
}

absl::StatusOr<DeviceHandle> CudaDriverImpl::Export(
    const DeviceAllocation& allocation) {
  WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(allocation.device));
  const Current current(calls_, context);
  DeviceHandle handle;
  handle.kind = allocation.kind;
  if (!allocation.exportable) {
    return absl::FailedPreconditionError(
        allocation.kind == DeviceAllocationKind::kVirtual
            ? "this virtual memory was not made to be opened by other "
              "processes; with torch set PYTORCH_CUDA_ALLOC_CONF="
              "expandable_segments:False"
        : allocation.kind == DeviceAllocationKind::kPool
            ? "memory of cudaMallocAsync cannot be opened by other processes; "
              "with torch unset PYTORCH_CUDA_ALLOC_CONF=backend:"
              "cudaMallocAsync"
            : "managed memory cannot be opened by other processes; use "
              "cudaMalloc");
  }
  if (allocation.kind == DeviceAllocationKind::kPlain) {
    CUipcMemHandle opaque = {};
    WEFT_RETURN_IF_ERROR(calls_.Check(
        calls_.cuIpcGetMemHandle_(&opaque, AsPointer(allocation.base)),
        "cuIpcGetMemHandle"));
    handle.bytes.assign(opaque.reserved, sizeof(opaque.reserved));
    return handle;
  }
  CUmemGenericAllocationHandle memory = 0;
  WEFT_RETURN_IF_ERROR(calls_.Check(
      calls_.cuMemRetainAllocationHandle_(&memory, allocation.base),
      "cuMemRetainAllocationHandle"));
  const CUresult result = calls_.cuMemExportToShareableHandle_(
      &handle.fd, memory, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  calls_.cuMemRelease_(memory);
  WEFT_RETURN_IF_ERROR(calls_.Check(result, "cuMemExportToShareableHandle"));
  return handle;
}

absl::StatusOr<std::byte*> CudaDriverImpl::Open(int device,
                                                const DeviceHandle& handle,
                                                int64_t bytes) {
  // The reader's GPU: opened on the owner's, only copies could use it, and a
  // second context of half a gigabyte would appear there.
  WEFT_ASSIGN_OR_RETURN(const CUcontext context, ContextOf(device));
  const Current current(calls_, context);
  if (handle.kind == DeviceAllocationKind::kVirtual) {
    CUmemGenericAllocationHandle memory = 0;
    WEFT_RETURN_IF_ERROR(calls_.Check(
        calls_.cuMemImportFromShareableHandle_(
            &memory, reinterpret_cast<void*>(static_cast<uintptr_t>(handle.fd)),
            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "cuMemImportFromShareableHandle"));
    WEFT_ASSIGN_OR_RETURN(const int64_t whole, WholePages(device, bytes));
    return Map(device, memory, whole);
  }
  CUipcMemHandle opaque = {};
  if (handle.bytes.size() != sizeof(opaque.reserved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a handle of ", handle.bytes.size(), " bytes, not ",
                     sizeof(opaque.reserved)));
  }
  std::memcpy(opaque.reserved, handle.bytes.data(), sizeof(opaque.reserved));
  CUdeviceptr pointer = 0;
  WEFT_RETURN_IF_ERROR(
      calls_.Check(calls_.cuIpcOpenMemHandle_(
                       &pointer, opaque, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                   "cuIpcOpenMemHandle"));
  return AsAddress(pointer);
}

}  // namespace

absl::StatusOr<DeviceDriver*> CudaDriver() {
  // Never destroyed: queues and memory may outlive main.
  static const absl::StatusOr<DeviceDriver*> driver =
      []() -> absl::StatusOr<DeviceDriver*> {
    WEFT_ASSIGN_OR_RETURN(const CudaCalls calls, CudaCalls::Load());
    auto loaded = std::make_unique<CudaDriverImpl>(calls);
    WEFT_RETURN_IF_ERROR(loaded->Start());
    return loaded.release();
  }();
  return driver;
}

}  // namespace weft::memory
