// Peers in other processes of one host, through shared pages.
//
// Regions of kShared buffers are mapped: the peer's socket passes the memfd.
// Memory that Weft did not allocate is reached by posted access with
// process_vm_readv and process_vm_writev, which need the right to trace the
// peer. Neither needs the peer's processor: a stopped peer can be read.
//
// A transfer runs inside Poll, a bounded part at each call. A region that its
// owner freed is refused before each transfer, and a Get that overlapped the
// freeing fails; memory that is already mapped stays mapped.
#ifndef WEFT_TRANSPORT_SHM_SHM_TRANSPORT_H_
#define WEFT_TRANSPORT_SHM_SHM_TRANSPORT_H_

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "weft/transport/transport.h"

namespace weft::transport {

struct ShmOptions {
  // Longest wait for the peer's answer to one Import, which has no deadline of
  // its own. Lower it in tests with stopped peers.
  std::chrono::nanoseconds import_timeout = std::chrono::seconds(10);
};

// kUnavailable when this process cannot open the socket or read its host id.
absl::StatusOr<std::unique_ptr<Transport>> MakeShmTransport(
    const ShmOptions& options = {});

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_SHM_SHM_TRANSPORT_H_
