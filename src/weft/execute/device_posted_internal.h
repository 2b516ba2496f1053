// The part of a GPU's program whose sources are reached by operations, not by
// addresses. The transport brings long runs straight to their place; all else
// comes in few long operations into a ring in the GPU's memory, from where
// programs that were built once scatter, convert and digest it:
//
//   part of the ring free -> operations of a round -> all arrived -> its
//   program -> done -> part of the ring free
//
// One thread.
#ifndef WEFT_EXECUTE_DEVICE_POSTED_INTERNAL_H_
#define WEFT_EXECUTE_DEVICE_POSTED_INTERNAL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/convert/cuda/program.h"
#include "weft/execute/binding_internal.h"
#include "weft/execute/posted_compile_internal.h"
#include "weft/memory/device.h"

namespace weft::execute {

class DevicePosted {
 public:
  // Compiles what is posted in `binding`, which must outlive it, for `device`.
  // Null when nothing is.
  static absl::StatusOr<std::unique_ptr<DevicePosted>> Make(
      const Binding& binding, const ExecuteOptions& options, int device);
  ~DevicePosted();
  DevicePosted(const DevicePosted&) = delete;
  DevicePosted& operator=(const DevicePosted&) = delete;

  const PeerTransfers& transfers(int peer) const {
    return peers_[peer].transfers;
  }
  int64_t ring_bytes() const { return ring_bytes_; }

  // Makes ready for a run that digests with `constants` (null: not at all) what
  // converts. kUnavailable when operations of an earlier run do not come back,
  // kDeadlineExceeded when the framework's stream does not end.
  absl::Status Begin(const convert::DigestConstants* constants,
                     base::Deadline deadline);
  // Polls, launches, posts. An error names phase, rank and tensor.
  absl::Status Service();
  // Everything is in place.
  bool Done() const { return rounds_left_ == 0 && direct_left_ == 0; }
  // Source digests of a converting move, by its table; of a run that is done.
  absl::Span<const convert::DigestValue> ConvertedValues(int32_t table) const {
    return converted_[table];
  }
  // Makes programs stop.
  void Abort();
  memory::DeviceQueue& queue() { return *queue_; }
  // Waits a short while for operations in flight. Returns how many are left:
  // they may still write into the ring and into near memory.
  int64_t Drain();

 private:
  // A transfer, and where it works: in the ring, or on near memory (round -1).
  struct Placed {
    int32_t peer = 0;
    int32_t round = -1;
    const Transfer* transfer = nullptr;
    int64_t ring_offset_bytes = 0;
    int64_t ops_left = 0;
  };
  // A stretch of a digest table that a round's program adds to.
  struct Slice {
    int32_t table = 0;
    int64_t first_in_table = 0;
    int64_t first_in_program = 0;
    int64_t num_values = 0;
  };
  struct Round {
    std::unique_ptr<convert::cuda::Program> scatter;
    std::vector<Slice> slices;
    int64_t num_transfers = 0;
    int64_t transfers_left = 0;
    bool done = false;
  };
  // What a peer posts next: into a list of `placed_`.
  struct Cursor {
    std::vector<int32_t> list;
    size_t next = 0;
    int64_t next_op = 0;
  };
  struct PeerState {
    transport::Peer* peer = nullptr;
    transport::Transport* transport = nullptr;
    PeerTransfers transfers;
    const transport::Region* ring_region = nullptr;
    Cursor staged;
    Cursor direct;
    std::vector<int32_t> op_placed;  // by operation slot
    std::vector<int32_t> free_ops;
    int64_t in_flight = 0;
  };

  DevicePosted(const Binding& binding, const ExecuteOptions& options,
               int device)
      : binding_(binding), options_(options), device_(device) {}
  absl::Status CompilePeers();
  void PlaceTransfers();
  absl::Status MakeRing();
  absl::Status BuildRounds();
  absl::Status AddToRound(const Placed& placed, Round& round,
                          convert::cuda::ProgramSpec& spec);
  absl::Status PollPeer(PeerState& peer);
  absl::Status PostToPeer(PeerState& peer);
  // Whether there is an operation to post now, in that list.
  bool Ready(const PeerState& peer, const Cursor& cursor) const;
  absl::Status PostOne(PeerState& peer, Cursor& cursor);
  absl::Status Landed(Placed& placed);
  absl::Status FinishRounds();
  absl::Status Fail(const absl::Status& status, const Placed& placed) const;

  const Binding& binding_;
  const ExecuteOptions& options_;
  const int device_;
  std::vector<PeerState> peers_;  // by Binding::peers
  std::vector<Placed> placed_;
  std::vector<Round> rounds_;
  int64_t part_bytes_ = 0;  // of the ring, which has kRingParts of them
  int64_t ring_bytes_ = 0;
  std::unique_ptr<memory::DeviceBuffer> ring_;
  // Of the ring, before which they go.
  std::vector<
      std::pair<transport::Transport*, std::unique_ptr<transport::Region>>>
      ring_regions_;
  std::vector<std::vector<convert::DigestValue>> converted_;  // by table
  const convert::DigestConstants* constants_ = nullptr;
  uint64_t generation_ = 0;  // upper half of the tags of this run
  size_t first_open_round_ = 0;
  int64_t rounds_left_ = 0;
  int64_t direct_left_ = 0;
  std::vector<transport::Completion> completions_;
  // Destroyed first.
  std::unique_ptr<memory::DeviceQueue> queue_;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_DEVICE_POSTED_INTERNAL_H_
