// Peers on any host, through UCX: RDMA, tcp, shared memory.
//
// Compiled against UCX 1.13; runs with any newer libucp.so.0. Each Peer has a
// UCX worker (some file descriptors and a few MiB).
//
// Get and Put are UCX's one-sided access where a NIC carries it out. Elsewhere
// (tcp, shared memory) UCX emulates them in the owner's process and checks
// nothing: a late Get reads freed memory, and a peer that dies with Gets in
// flight crashes the owner (seen with 1.13 and 1.22). There Weft sends messages
// of its own, which the owner's service thread checks against its regions.
// Gather is always such a message.
//
// Memory of GPUs moves from GPU to GPU by UCX where the loaded one has CUDA and
// a wire leads there (NVLink, PCIe or RDMA with the GPU): each region is probed
// when it is imported. Else, and when one end only lies on a GPU, its owner's
// GPU copies it to the host, and messages carry it. RemoteRegion::through_host
// and description() say which way and why
// (docs/decisions/0021-posted-device.md).
//
// A region that its owner freed is refused; by a NIC with an error of the
// endpoint, which ends the connection.
#ifndef WEFT_TRANSPORT_UCX_UCX_TRANSPORT_H_
#define WEFT_TRANSPORT_UCX_UCX_TRANSPORT_H_

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/memory/device.h"
#include "weft/transport/transport.h"

namespace weft::transport {

struct UcxOptions {
  // UCX settings without the prefix "UCX_", such as {"TLS", "tcp"}. They win
  // over the environment, and the environment over Weft's defaults.
  std::vector<std::pair<std::string, std::string>> settings = {};
  // Longest wait for the peer's answer to one Import, which has no deadline of
  // its own. Lower it in tests with stopped peers.
  std::chrono::nanoseconds import_timeout = std::chrono::seconds(10);
  // Get and Put by UCX also where it emulates them. For benchmarks that compare
  // the two; leave it alone elsewhere.
  bool emulated_rma = false;
  // Null: this process uses no memory of GPUs. Outlives the transport.
  memory::DeviceDriver* driver = nullptr;
  // This process's GPU, into which memory of peers' GPUs is read.
  int device = memory::kHostMemory;
};

// kUnavailable when UCX does not start, kInvalidArgument for a setting that it
// refuses.
absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(
    const UcxOptions& options = {});

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_UCX_UCX_TRANSPORT_H_
