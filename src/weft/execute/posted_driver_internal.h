// Drives the posted transfers of a run: keeps every peer's window full, in
// turn, and hands filled slots to LocalWork.
//
//   pull: take slot -> Gets -> (wire done) -> scatter by a core -> free slot
//   push: take slot -> pack by a core -> Puts -> (wire done) -> free slot
//
// Everything but the slot copies runs in the thread that calls Service.
#ifndef WEFT_EXECUTE_POSTED_DRIVER_INTERNAL_H_
#define WEFT_EXECUTE_POSTED_DRIVER_INTERNAL_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/execute/binding_internal.h"
#include "weft/execute/local_work_internal.h"
#include "weft/execute/posted_compile_internal.h"
#include "weft/execute/staging_internal.h"

namespace weft::execute {

// Where a run stood when it failed.
struct PostedFault {
  absl::Status status;
  const char* phase = "";  // "get", "gather", "put", "flush"
  int32_t move = -1;       // into Binding::moves
};

// Tags of different programs on one peer never meet: each run takes a number,
// which is the upper half of its tags.
uint64_t NextTagGeneration();
inline constexpr uint64_t kGenerationMask = ~uint64_t{0xffffffff};

// How long a failed run waits for what it has posted.
inline constexpr std::chrono::milliseconds kPostedDrainBound{500};

// "gather", "get" or "put".
const char* PhaseOf(const Transfer& transfer, Direction direction);
// Posts operation `op` of `transfer`, which works on memory from `local` on.
absl::Status PostOperation(transport::Peer& peer, const Transfer& transfer,
                           int64_t op, std::byte* local,
                           const transport::Region* local_region,
                           Direction direction, transport::OpTag tag);
// Polls once. How many of the `in_flight` operations of `generation` are left.
int64_t PollToDrain(transport::Peer& peer, uint64_t generation,
                    int64_t in_flight,
                    std::vector<transport::Completion>& completions);

class PostedDriver {
 public:
  // Compiles what is posted in `binding`, which must outlive the driver.
  static absl::StatusOr<std::unique_ptr<PostedDriver>> Make(
      const Binding& binding, const ExecuteOptions& options);
  ~PostedDriver();
  PostedDriver(const PostedDriver&) = delete;
  PostedDriver& operator=(const PostedDriver&) = delete;

  bool HasTransfers() const { return has_transfers_; }
  const PeerTransfers& transfers(int peer) const {
    return peers_[peer].transfers;
  }
  Staging& staging() { return staging_; }

  // Makes ready for a run. kUnavailable when operations of an earlier run are
  // still in flight and do not come back.
  absl::Status Begin();
  // One turn over the peers: polls, frees, posts. `work` gets slot jobs.
  // Returns whether anything happened; on an error fault() says what.
  absl::StatusOr<bool> Service(LocalWork& work);
  const PostedFault& fault() const { return fault_; }
  bool Done() const { return num_unfinished_ == 0; }
  // The first peer with work left, and what it does; for naming in errors.
  int UnfinishedPeer() const;
  PostedFault Standing(int peer) const;
  int64_t bytes_done(int peer) const { return peers_[peer].bytes_done; }
  // Waits a short while for operations in flight. Returns how many are left:
  // they may still write into staging and into near memory.
  int64_t Drain();

 private:
  struct Active {
    int32_t transfer = 0;
    bool staged = false;
    int64_t slot_offset_bytes = 0;
    int64_t next_op = 0;
    int64_t outstanding = 0;
  };
  struct PeerState {
    int index = 0;
    transport::Peer* peer = nullptr;
    PeerTransfers transfers;
    const transport::Region* staging_region = nullptr;
    size_t next_staged = 0;
    size_t next_direct = 0;
    int64_t slots_used_bytes = 0;
    int64_t bytes_done = 0;
    int64_t in_flight = 0;
    std::vector<Active> actives;  // by name; free names in free_actives
    std::vector<int32_t> free_actives;
    std::deque<int32_t> posting;     // actives with operations to post
    std::vector<int32_t> op_active;  // by operation slot
    std::vector<int32_t> free_ops;
    std::vector<transport::Completion> completions;
  };

  PostedDriver(const Binding& binding, const ExecuteOptions& options)
      : binding_(binding), options_(options) {}

  bool pull() const { return binding_.direction == Direction::kPull; }
  const Transfer& TransferOf(const PeerState& peer, const Active& active) const;
  absl::StatusOr<bool> PollPeer(PeerState& peer, LocalWork& work);
  absl::StatusOr<bool> PostToPeer(PeerState& peer, LocalWork& work);
  absl::Status PostOne(PeerState& peer, int32_t active_name);
  bool BeginStaged(PeerState& peer, LocalWork& work);
  bool BeginDirect(PeerState& peer);
  int32_t NewActive(PeerState& peer, const Active& active);
  void WireDone(PeerState& peer, int32_t active_name, LocalWork& work);
  void Retire(PeerState& peer, int32_t active_name, LocalWork& work);
  void CountTransfers(const PeerTransfers& transfers);
  void CollectCopied(LocalWork& work, bool& advanced);
  absl::Status Fail(absl::Status status, const char* phase, int32_t move);
  int64_t ResetPeer(PeerState& peer);

  const Binding& binding_;
  const ExecuteOptions& options_;
  std::vector<PeerState> peers_;  // by Binding::peers
  Staging staging_;
  int64_t share_bytes_ = 0;  // of staging, per peer with staged transfers
  bool has_transfers_ = false;
  int64_t num_unfinished_ = 0;  // transfers of all peers
  // By Binding::moves: transfers until the move has landed. 0 = nobody asks.
  std::vector<int32_t> transfers_of_move_;
  std::vector<int32_t> transfers_left_;
  uint64_t generation_ = 0;  // upper half of the tags of this run
  size_t first_peer_ = 0;    // whose turn begins the round
  PostedFault fault_;
  std::vector<SlotJob> copied_;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_POSTED_DRIVER_INTERNAL_H_
