// Peers in other processes of one host whose weights lie in the memory of GPUs:
// their allocations are opened once and mapped for this process's GPU, which
// then reads and writes them over NVLink or PCIe.
//
// Memory of the host goes by the transport `shm`, which also tells who is alive
// and what was freed; so one peer has its weights in device memory and its
// epoch word and digest tables in shared pages.
//
// Posted access to device memory is copies by the GPU's copy engines, from and
// to memory of either kind.
#ifndef WEFT_TRANSPORT_CUDA_CUDA_TRANSPORT_H_
#define WEFT_TRANSPORT_CUDA_CUDA_TRANSPORT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "weft/memory/device.h"
#include "weft/memory/opened_handles.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/transport.h"

namespace weft::transport {

struct CudaOptions {
  memory::DeviceDriver* driver = nullptr;  // outlives the transport
  int device = 0;  // this process's GPU, for which peers' memory is mapped
  // What this process has open; shared by its transports, since the driver
  // opens a handle once. Null: one of its own.
  std::shared_ptr<memory::OpenedHandles> handles = nullptr;
  ShmOptions shm = {};
};

// kInvalidArgument without such a GPU, and what MakeShmTransport says.
absl::StatusOr<std::unique_ptr<Transport>> MakeCudaTransport(
    const CudaOptions& options);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_CUDA_CUDA_TRANSPORT_H_
