// Carries out a plan: binds it to memory once, runs it as often as wanted.
//
// Access is chosen per source stored tensor: mapped where the peer's region
// could be mapped, else posted. Pull: this process is the plan's target and
// reads its peers. Push: this process is one source of the plan and writes the
// target; the target's other sources push their own parts.
//
// Mapped: the runs become one program of tile descriptors (at most ~1 MiB
// each) that worker threads walk; permute and cast fused into the copy; no
// staging. Posted: long runs go direct; short ones take the cheapest of
// (a) single Gets, (b) over-reading the span and scattering, (c) Gather by
// the target, each by the transport's cost model; staging is a ring inside
// `staging_bytes`, wire and scatter overlapped, at most `window` operations in
// flight.
#ifndef WEFT_EXECUTE_EXECUTOR_H_
#define WEFT_EXECUTE_EXECUTOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/execute/device_options.h"
#include "weft/plan/plan.h"
#include "weft/transport/transport.h"

namespace weft::execute {

enum class PostedWay { kAuto, kShortGets, kOverRead, kGather };

struct ExecuteOptions {
  int num_threads = 1;  // mapped workers and scatter threads
  int window = 32;      // posted operations in flight, per peer
  int64_t staging_bytes = int64_t{64} << 20;
  // Tests and benchmarks force one way; kAuto elsewhere.
  PostedWay posted_way = PostedWay::kAuto;
  // Called now and then from the driving thread with bytes done so far.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress =
      nullptr;
  // Pull: called with (peer, move) of the plan when all bytes of a move that
  // is posted, converts nothing and shares no wire operation with another one
  // are in place, so that they can be digested while the wire works on. From
  // any thread of the run, for several moves at a time, before Run returns.
  // Never called for the other moves.
  std::function<void(size_t peer, size_t move)> landed = nullptr;
  // Pull by a GPU, with digests: called with (peer, move) of the plan when the
  // digests of a move are there (LandedDigests, ConvertedDigests) while the GPU
  // brings others; for every move. From num_threads threads, for several moves
  // at a time, after `beside` and before Run returns.
  std::function<void(size_t peer, size_t move)> digested = nullptr;
  // Called once a run when a GPU has been given all of its work, from a thread
  // of the run: for what needs no result of it. An error fails the run.
  // Never called where no GPU carries the plan.
  std::function<absl::Status()> beside = nullptr;
  // Needed when an end of the plan lies in the memory of a GPU: it then carries
  // the whole plan, and of the above only num_threads and the hooks that say so
  // apply.
  DeviceOptions device;
};

// One stored tensor of the local side.
struct LocalStored {
  std::byte* base = nullptr;
  int64_t size_bytes = 0;
  // Registration that holds it, for posted access without copies; may be null.
  const transport::Region* region = nullptr;
  int device = memory::kHostMemory;  // the GPU that holds it
};

// One stored tensor of the remote side: inside an imported region.
struct RemoteStored {
  const transport::RemoteRegion* region = nullptr;
  int64_t offset_bytes = 0;
};

// The remote rank `rank` and all its stored tensors (by placement index;
// entries that the plan does not use may have region == nullptr).
struct RemoteRank {
  int64_t rank = 0;
  transport::Peer* peer = nullptr;  // not owned
  std::vector<RemoteStored> stored;
  // The transport that made `peer`, not owned: its cost model and Gather, and
  // the registration of the staging ring. Null: a default cost model, no
  // Gather, staging unregistered.
  transport::Transport* transport = nullptr;
};

struct ExecuteReport {
  int64_t bytes_moved = 0;    // bytes of moves, at the destination
  int64_t bytes_on_wire = 0;  // read or written at the peer, over-read included
  double seconds = 0;
  int64_t mapped_bytes = 0;
  int64_t posted_direct_bytes = 0;
  int64_t posted_staged_bytes = 0;
  int64_t posted_ops = 0;
  int64_t peak_staging_bytes = 0;
  struct Peer {
    int64_t rank = 0;
    int64_t bytes = 0;
    bool mapped = false;
    std::string way;  // "mapped", "direct", "over-read", "gather", mixed
  };
  std::vector<Peer> peers;
};

// A plan bound to memory. Reusable; one Run at a time. The plan, the
// transports' objects and the memory must outlive it.
class Program {
 public:
  virtual ~Program() = default;
  // Moves the bytes. On an error the destination may be partly written. The
  // message names rank, peer, tensor and how far it came.
  // kDeadlineExceeded, kUnavailable (peer lost), or the transport's code.
  // Operations in flight are waited for a short while; if some do not come
  // back, the message ends with how many "may still write", and the peer must
  // be destroyed before the destination is used. Until they come back, later
  // Runs are refused (kUnavailable), and staging that they may write to is
  // never freed.
  virtual absl::StatusOr<ExecuteReport> Run(base::Deadline deadline) = 0;

  // Scratch that holds the witnesses after Run (pull only): witness w of peer
  // p at its scratch_offset_bytes. Empty where it is memory of a GPU.
  virtual absl::Span<const std::byte> scratch() const = 0;

  // Source digests of moves whose conversion is not the identity, taken from
  // the source values while converting (a lossy cast cannot be digested
  // afterwards): accumulated per move, table of tensor::TileGrid::Of(move.box),
  // valid after Run when constants were given. Empty for identity moves.
  virtual absl::Span<const convert::DigestValue> ConvertedDigests(
      size_t peer_index, size_t move_index) const = 0;
  // A program of a GPU digests what it brought where it lies now: by move, over
  // tensor::TileGrid::Of(move.box), and by witness, over that of its box.
  // Valid after Run when constants were given; empty for other programs and for
  // moves that convert.
  virtual absl::Span<const convert::DigestValue> LandedDigests(
      size_t peer_index, size_t move_index) const {
    static_cast<void>(peer_index), static_cast<void>(move_index);
    return {};
  }
  virtual absl::Span<const convert::DigestValue> WitnessDigests(
      size_t peer_index, size_t witness_index) const {
    static_cast<void>(peer_index), static_cast<void>(witness_index);
    return {};
  }
  // For the next Run; nullptr = do not digest.
  virtual void SetDigestConstants(
      const convert::DigestConstants* constants) = 0;
};

// `remotes` must hold every src_rank of the plan. Checks all bounds once.
// kInvalidArgument / kOutOfRange with all faults.
absl::StatusOr<std::unique_ptr<Program>> BindPull(
    const plan::Plan& plan, const plan::SourceIndex& sources,
    const manifest::Placement& target, const convert::Kernels& kernels,
    absl::Span<const LocalStored> local, absl::Span<const RemoteRank> remotes,
    const ExecuteOptions& options);

// This process is `src_rank`; writes its part of the plan into the target.
// Zero fills and witnesses are the target's business and are not done here.
// kUnimplemented for a plan whose target quantises (plan/stages.h).
absl::StatusOr<std::unique_ptr<Program>> BindPush(
    const plan::Plan& plan, const plan::SourceIndex& sources,
    const manifest::Placement& target, const convert::Kernels& kernels,
    int64_t src_rank, absl::Span<const LocalStored> local,
    const RemoteRank& target_rank, const ExecuteOptions& options);

// Writes the plan's zero fills into local memory of the host; those in the
// memory of a GPU are part of the program.
void ApplyZeroFills(const plan::Plan& plan, const manifest::Placement& target,
                    absl::Span<const LocalStored> local);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_EXECUTOR_H_
