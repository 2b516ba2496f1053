// Memory of GPUs: what Weft asks of a driver. An interface, so that what is
// built on it runs in tests without a GPU; `memory/cuda` is the real one.
//
// Device memory is named by its address, as host memory is: all addresses of a
// process are distinct (unified addressing), and a kernel can follow them. Code
// of the host never does.
#ifndef WEFT_MEMORY_DEVICE_H_
#define WEFT_MEMORY_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"

namespace weft::memory {

// A GPU by its ordinal in this process; kHostMemory for memory of the host.
inline constexpr int kHostMemory = -1;

struct DeviceInfo {
  int device = 0;
  std::string name = {};
  std::string uuid = {};    // 32 hex digits, the same in every process
  std::string bus_id = {};  // "0000:3b:00.0"
  int64_t total_bytes = 0;
  int num_multiprocessors = 0;
  int major = 0;  // compute capability
  int minor = 0;
};

// How one GPU of this process reaches the memory of another.
struct DeviceLink {
  bool reachable = false;
  // The driver's rank among links, 0 the fastest.
  int performance_rank = 0;
  bool atomics = false;  // native over NVLink, not over PCIe
};

enum class DeviceAllocationKind {
  kPlain,    // cudaMalloc: exported by a handle of 64 bytes
  kVirtual,  // cuMemCreate and cuMemMap: exported by a file descriptor
  kPool,     // cudaMallocAsync
  kManaged,  // cudaMallocManaged
};

// What the driver holds around an address.
struct DeviceAllocation {
  int device = 0;
  std::byte* base = nullptr;
  int64_t bytes = 0;
  // Never given twice by a process: tells memory that was freed and allocated
  // again at the same address.
  uint64_t id = 0;
  DeviceAllocationKind kind = DeviceAllocationKind::kPlain;
  // Made to be exported (kPlain always is).
  bool exportable = true;
};

// What opens an allocation in another process. A file descriptor travels over
// a Unix socket, beside this.
struct DeviceHandle {
  DeviceAllocationKind kind = DeviceAllocationKind::kPlain;
  std::string bytes = {};  // kPlain
  int fd = -1;             // kVirtual; the holder closes it
};

// Work on one GPU in order, apart from all other work there (a stream). Calls
// return before the work is done. Thread-compatible.
class DeviceQueue {
 public:
  // Waits for what was queued.
  virtual ~DeviceQueue() = default;
  virtual int device() const = 0;
  // Any mixture of host memory and of memory of any reachable GPU.
  virtual absl::Status Copy(std::byte* dst, const std::byte* src,
                            int64_t bytes) = 0;
  // `rows` rows of `row_bytes`.
  virtual absl::Status CopyRows(std::byte* dst, int64_t dst_stride_bytes,
                                const std::byte* src, int64_t src_stride_bytes,
                                int64_t row_bytes, int64_t rows) = 0;
  virtual absl::Status Fill(std::byte* dst, uint8_t value, int64_t bytes) = 0;
  // What is queued from now on begins after all that a framework has queued in
  // its stream so far.
  virtual absl::Status WaitForStream(uintptr_t stream) = 0;
  // Whether all that was queued is done. An error of the GPU stays.
  virtual absl::StatusOr<bool> Idle() = 0;
  // The driver's stream, for leaves that launch kernels.
  virtual uintptr_t stream() const = 0;

  // Polls until idle. kDeadlineExceeded names `what`; the work goes on then.
  absl::Status Wait(base::Deadline deadline, const char* what);
};

// Thread-safe, but for Allocate and Free of one address.
class DeviceDriver {
 public:
  virtual ~DeviceDriver() = default;
  // "CUDA driver 13.0, 2 GPUs".
  virtual std::string description() const = 0;
  virtual int num_devices() const = 0;
  // kInvalidArgument for an ordinal that is not there, in all calls.
  virtual absl::StatusOr<DeviceInfo> Describe(int device) = 0;
  virtual absl::StatusOr<DeviceLink> LinkBetween(int from, int to) = 0;
  // This process's ordinal of the GPU; kNotFound when it sees no such one.
  absl::StatusOr<int> FindDevice(const std::string& uuid);

  // kPlain, or kVirtual that can be exported. kResourceExhausted with the size.
  virtual absl::StatusOr<std::byte*> Allocate(int device, int64_t bytes,
                                              DeviceAllocationKind kind) = 0;
  virtual absl::Status Free(int device, std::byte* address) = 0;
  // kNotFound when `address` is not in device memory.
  virtual absl::StatusOr<DeviceAllocation> Find(const std::byte* address) = 0;

  // kFailedPrecondition, with what to do about it, when the memory cannot be
  // opened elsewhere.
  virtual absl::StatusOr<DeviceHandle> Export(
      const DeviceAllocation& allocation) = 0;
  // Maps the whole allocation for `device`, this process's GPU that will read
  // it. kUnavailable when that GPU cannot reach the owner's.
  virtual absl::StatusOr<std::byte*> Open(int device,
                                          const DeviceHandle& handle,
                                          int64_t bytes) = 0;
  virtual absl::Status Close(int device, const DeviceHandle& handle,
                             std::byte* address, int64_t bytes) = 0;
  // Memory of another GPU of this process, for `device`.
  virtual absl::Status EnablePeer(int device, int owner) = 0;

  // Host memory of this process that `device` may touch while it lives.
  virtual absl::Status Pin(std::byte* address, int64_t bytes) = 0;
  virtual absl::Status Unpin(std::byte* address) = 0;

  virtual absl::StatusOr<std::unique_ptr<DeviceQueue>> MakeQueue(
      int device) = 0;
};

// What a GPU's memory is mapped by at best. The driver does so only with
// allocations of whole such pages: 16.4 GB and a byte more are opened by
// another process in 80 ms instead of 1, and copied at 0.8 of the rate (H200,
// driver 580; docs/numbers.md). torch's large segments are whole pages.
inline constexpr int64_t kDevicePageBytes = int64_t{2} << 20;

// Owns device memory that other processes can open, filled with zeros: whole
// pages from one page on, so that it may be longer than size_bytes().
class DeviceBuffer {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      DeviceDriver& driver, int device, int64_t bytes,
      DeviceAllocationKind kind = DeviceAllocationKind::kPlain);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  std::byte* data() const { return address_; }
  int64_t size_bytes() const { return bytes_; }
  int device() const { return device_; }

 private:
  DeviceBuffer(DeviceDriver& driver, int device, std::byte* address,
               int64_t bytes)
      : driver_(driver), device_(device), address_(address), bytes_(bytes) {}
  DeviceDriver& driver_;
  const int device_;
  std::byte* const address_;
  const int64_t bytes_;
};

// "cuda:1" or "cuda" (the first GPU) to an ordinal; kInvalidArgument else.
absl::StatusOr<int> ParseDevice(const std::string& text);

}  // namespace weft::memory

#endif  // WEFT_MEMORY_DEVICE_H_
