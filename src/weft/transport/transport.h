// Reaching a peer's memory. One interface, two kinds of access:
//
//   mapped   the peer's region appears at an address of this process and is
//            read and written by load and store;
//   posted   one-sided reads (Get), writes (Put) and packed strided reads
//            (Gather) that complete later.
//
// A Transport has capabilities and so has every imported region: memory that
// Weft allocated (memory::MemoryKind::kShared) is mappable through `shm`,
// memory that a framework allocated is reached by posted access.
//
// Threads: a Transport may be used from any thread. A Peer and its regions
// belong to one thread at a time. The passive side needs no call: a transport
// whose peers need the target's CPU (UCX over tcp) runs a progress thread.
//
// Completion: "complete" means remotely complete, for Put too, after Flush. A
// transfer that failed may have written part of its bytes.
//
// Errors: kUnavailable (the peer died or closed; the message names its label),
// kDeadlineExceeded, kNotFound (a key the peer does not know),
// kInvalidArgument (malformed key or address), kOutOfRange (beyond the
// region, checked here, before anything moves), kPermissionDenied.
#ifndef WEFT_TRANSPORT_TRANSPORT_H_
#define WEFT_TRANSPORT_TRANSPORT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"

namespace weft::transport {

struct Capabilities {
  bool mapped = false;          // regions of kShared buffers can be mapped
  bool posted = false;          // Get and Put
  bool gather = false;          // Gather: the target packs strided pieces
  bool foreign_memory = false;  // memory that Weft did not allocate
  bool device_memory = false;   // memory of GPUs
  // Cost model, measured or known: seconds per posted operation, and bytes
  // per second of a long one. The executor chooses between many short Gets,
  // over-reading and Gather by these.
  double posted_seconds_per_op = 0;
  double posted_bytes_per_second = 0;
  // Seconds that one Gather request costs beside its bytes, and bytes per
  // second at which the target packs.
  double gather_seconds_per_op = 0;
  double gather_bytes_per_second = 0;
  // Of Gets and Puts between two GPUs whose bytes do not go through memory of
  // the host (RemoteRegion::through_host).
  double device_seconds_per_op = 0;
  double device_bytes_per_second = 0;
  // Of a Gather between two GPUs, as above.
  double device_gather_seconds_per_op = 0;
  double device_gather_bytes_per_second = 0;
};

// N-d strided pieces of a remote region, packed in order (outermost mode
// first) into a contiguous local span: for all i with 0 <= i_k < extent_k the
// `piece_bytes` bytes at offset_bytes + sum i_k * stride_bytes_k.
struct StridedPieces {
  struct Mode {
    int64_t extent = 1;
    int64_t stride_bytes = 0;
  };
  int64_t offset_bytes = 0;
  absl::InlinedVector<Mode, 4> modes = {};  // outermost first
  int64_t piece_bytes = 0;
  // INT64_MAX when the exact value does not fit, in all three.
  int64_t num_pieces() const;
  int64_t packed_bytes() const;
  // One past the last byte read, relative to the region; `offset_bytes` when
  // nothing is read.
  int64_t end_offset_bytes() const;
};

// A registration of local memory. Destroying it deregisters: later accesses
// by peers fail, and never touch the memory again. The memory must outlive it.
class Region {
 public:
  virtual ~Region() = default;
  virtual absl::Span<std::byte> memory() const = 0;
  // Opaque; give it to the peer by any channel. Holds the region's length and
  // a generation, so that a key of a freed region is refused.
  virtual const std::string& key() const = 0;
};

// A peer's region as this process reaches it. Owned by its Peer's user; must
// not outlive the Peer.
class RemoteRegion {
 public:
  virtual ~RemoteRegion() = default;
  virtual int64_t size_bytes() const = 0;
  // Base address if mapped, else nullptr. Stays readable after the peer died
  // (the mapping keeps the pages): check Peer::Health after reading.
  virtual std::byte* mapped() const = 0;
  // The GPU of this process that mapped() is for; memory::kHostMemory when the
  // host may follow it.
  virtual int device() const { return memory::kHostMemory; }
  // Whether the region lies in the memory of a GPU of its owner, where only
  // posted access reaches it.
  virtual bool on_peer_device() const { return false; }
  // Empty, or why its bytes take a way through memory of the host, at the rate
  // of a wire between hosts: "this ucx 1.13.1 has no CUDA; ...".
  virtual std::string_view through_host() const { return ""; }
};

using OpTag = uint64_t;  // the caller's name for a posted operation

struct Completion {
  OpTag tag = 0;
  absl::Status status;
};

class Peer {
 public:
  virtual ~Peer() = default;
  virtual const std::string& label() const = 0;

  // kInvalidArgument for a malformed key; kNotFound when the peer no longer
  // has it; kPermissionDenied when the host forbids the mapping.
  virtual absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(
      std::string_view key) = 0;

  // Posted operations; kUnimplemented without the capability. Bounds are
  // checked at once. An error returned here means that nothing was posted: no
  // completion follows. `local` must stay valid and untouched until its
  // completion is polled, and `remote` must live until then. `local_region`:
  // the registration that holds `local`, or nullptr (some transports then
  // register or copy inside). `local` may lie in memory of a GPU when
  // capabilities().device_memory.
  virtual absl::Status Get(const RemoteRegion& remote,
                           int64_t remote_offset_bytes,
                           absl::Span<std::byte> local,
                           const Region* local_region, OpTag tag) = 0;
  virtual absl::Status Put(const RemoteRegion& remote,
                           int64_t remote_offset_bytes,
                           absl::Span<const std::byte> local,
                           const Region* local_region, OpTag tag) = 0;
  // local.size() must be pieces.packed_bytes().
  virtual absl::Status Gather(const RemoteRegion& remote,
                              const StridedPieces& pieces,
                              absl::Span<std::byte> local,
                              const Region* local_region, OpTag tag) = 0;

  // Makes progress without blocking; appends what has completed, in any
  // order, each tag once, also failed ones. Returns the number appended.
  virtual int Poll(std::vector<Completion>& completions) = 0;
  virtual int64_t in_flight() const = 0;

  // Blocks until every operation posted so far is complete at both ends.
  // Completions are still delivered by Poll. kUnavailable when the peer is
  // gone, kDeadlineExceeded otherwise.
  virtual absl::Status Flush(base::Deadline deadline) = 0;

  // OK while the peer is believed alive; kUnavailable once it is known dead.
  virtual absl::Status Health() = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;
  // What was loaded and chosen, for `weft --version` and reports:
  // "ucx 1.13.1 (posix,cma,tcp)".
  virtual std::string description() const = 0;
  virtual Capabilities capabilities() const = 0;
  virtual const std::string& address() const = 0;

  // Registers [memory.begin, memory.end) for reading and writing by peers.
  // Any memory of this process when capabilities().foreign_memory, else only
  // memory inside `buffer`. `buffer` may be nullptr for foreign memory; when
  // it is given, `memory` must lie inside it. Device memory, whoever allocated
  // it, is registered without a buffer when capabilities().device_memory.
  virtual absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) = 0;

  // `label` names the peer in errors: "publisher rank 3".
  virtual absl::StatusOr<std::unique_ptr<Peer>> Connect(
      std::string_view address, std::string label, base::Deadline deadline) = 0;
};

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_TRANSPORT_H_
