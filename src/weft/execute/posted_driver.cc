#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/deadline.h"
#include "weft/base/status.h"
#include "weft/execute/posted_driver_internal.h"

namespace weft::execute {
namespace {

constexpr int64_t kMaxSlotBytes = int64_t{1} << 20;
constexpr int64_t kMinSlotBytes = 512;
// Slots per peer at least: one is scattered while others are filled.
constexpr int64_t kSlotsPerPeer = 4;

}  // namespace

uint64_t NextTagGeneration() {
  static std::atomic<uint32_t> next{1};
  return uint64_t{next.fetch_add(1, std::memory_order_relaxed)} << 32;
}

const char* PhaseOf(const Transfer& transfer, Direction direction) {
  if (direction == Direction::kPush) return "put";
  return transfer.way == WireWay::kGather ? "gather" : "get";
}

absl::Status PostOperation(transport::Peer& peer, const Transfer& transfer,
                           int64_t op, std::byte* local,
                           const transport::Region* local_region,
                           Direction direction, transport::OpTag tag) {
  if (transfer.way == WireWay::kGather) {
    return peer.Gather(*transfer.region, PiecesOf(transfer),
                       {local, static_cast<size_t>(transfer.wire_bytes)},
                       local_region, tag);
  }
  const WireOp one = transfer.Op(op);
  const absl::Span<std::byte> memory(local + one.local_offset_bytes,
                                     static_cast<size_t>(one.bytes));
  return direction == Direction::kPull
             ? peer.Get(*transfer.region, one.far_offset_bytes, memory,
                        local_region, tag)
             : peer.Put(*transfer.region, one.far_offset_bytes, memory,
                        local_region, tag);
}

int64_t PollToDrain(transport::Peer& peer, uint64_t generation,
                    int64_t in_flight,
                    std::vector<transport::Completion>& completions) {
  completions.clear();
  const int polled = peer.Poll(completions);
  for (const transport::Completion& completion : completions) {
    if ((completion.tag & kGenerationMask) == generation) --in_flight;
  }
  return polled == 0 && peer.in_flight() == 0 ? 0 : in_flight;
}

absl::StatusOr<std::unique_ptr<PostedDriver>> PostedDriver::Make(
    const Binding& binding, const ExecuteOptions& options) {
  std::unique_ptr<PostedDriver> driver(new PostedDriver(binding, options));
  std::vector<bool> posted(binding.peers.size());
  for (const BoundMove& move : binding.moves) {
    if (move.far_mapped == nullptr) posted[move.peer] = true;
  }
  const int64_t num_posted =
      std::max<int64_t>(1, std::count(posted.begin(), posted.end(), true));
  driver->transfers_of_move_.resize(binding.moves.size());
  driver->share_bytes_ = options.staging_bytes / num_posted;
  const int64_t max_slot_bytes = std::clamp(
      driver->share_bytes_ / kSlotsPerPeer, kMinSlotBytes, kMaxSlotBytes);
  std::vector<transport::Transport*> transports;
  int64_t slot_bytes = 0;
  for (size_t p = 0; p < binding.peers.size(); ++p) {
    PeerState& peer = driver->peers_.emplace_back();
    peer.index = static_cast<int>(p);
    peer.peer = binding.peers[p].peer;
    if (!posted[p]) continue;
    const WireCost cost = WireCost::Of(binding.peers[p].transport);
    if (options.posted_way == PostedWay::kGather && !cost.gather) {
      return absl::UnimplementedError(
          absl::StrCat("posted way gather was asked for, but the transport to "
                       "rank ",
                       binding.peers[p].rank, " has no gather"));
    }
    WEFT_ASSIGN_OR_RETURN(peer.transfers,
                          CompilePosted(binding, peer.index, cost,
                                        options.posted_way, max_slot_bytes));
    driver->has_transfers_ |=
        !peer.transfers.staged.empty() || !peer.transfers.direct.empty();
    driver->CountTransfers(peer.transfers);
    slot_bytes += peer.transfers.total_slot_bytes;
    if (!peer.transfers.staged.empty()) {
      transports.push_back(binding.peers[p].transport);
    }
    peer.op_active.resize(options.window);
  }
  if (slot_bytes > 0) {
    WEFT_ASSIGN_OR_RETURN(
        driver->staging_,
        Staging::Make(std::min(slot_bytes, options.staging_bytes), transports));
    for (size_t p = 0; p < binding.peers.size(); ++p) {
      driver->peers_[p].staging_region =
          driver->staging_.RegionFor(binding.peers[p].transport);
    }
  }
  return driver;
}

void PostedDriver::CountTransfers(const PeerTransfers& transfers) {
  if (!pull() || options_.landed == nullptr) return;
  for (const auto* list : {&transfers.staged, &transfers.direct}) {
    for (const Transfer& transfer : *list) {
      const BoundMove& move = binding_.moves[transfer.move];
      if (move.witness || move.converted_table >= 0) continue;
      ++transfers_of_move_[transfer.move];
    }
  }
  for (const int32_t move : transfers.joined_moves) {
    transfers_of_move_[move] = 0;
  }
}

PostedDriver::~PostedDriver() {
  // Memory that a transfer may still write to is never given back.
  if (Drain() > 0) staging_.Abandon();
}

int64_t PostedDriver::Drain() {
  const base::Deadline bound = base::Deadline::After(kPostedDrainBound);
  while (true) {
    int64_t left = 0;
    for (PeerState& peer : peers_) {
      if (peer.in_flight == 0) continue;
      peer.in_flight = PollToDrain(*peer.peer, generation_, peer.in_flight,
                                   peer.completions);
      left += peer.in_flight;
    }
    if (left == 0 || bound.Passed()) return left;
    std::this_thread::yield();
  }
}

int64_t PostedDriver::ResetPeer(PeerState& peer) {
  peer.next_staged = 0;
  peer.next_direct = 0;
  peer.slots_used_bytes = 0;
  peer.bytes_done = 0;
  peer.actives.clear();
  peer.free_actives.clear();
  peer.posting.clear();
  peer.free_ops.clear();
  for (size_t op = peer.op_active.size(); op-- > 0;) {
    peer.free_ops.push_back(static_cast<int32_t>(op));
  }
  return static_cast<int64_t>(peer.transfers.staged.size() +
                              peer.transfers.direct.size());
}

absl::Status PostedDriver::Begin() {
  const int64_t left = Drain();
  if (left > 0) {
    return absl::UnavailableError(absl::StrCat(
        left,
        " operations of an earlier run are still in flight; destroy the "
        "peer and the program, then connect again"));
  }
  generation_ = NextTagGeneration();
  staging_.Reset();
  fault_ = PostedFault();
  num_unfinished_ = 0;
  transfers_left_ = transfers_of_move_;
  for (PeerState& peer : peers_) num_unfinished_ += ResetPeer(peer);
  return absl::OkStatus();
}

const Transfer& PostedDriver::TransferOf(const PeerState& peer,
                                         const Active& active) const {
  return active.staged ? peer.transfers.staged[active.transfer]
                       : peer.transfers.direct[active.transfer];
}

absl::Status PostedDriver::Fail(absl::Status status, const char* phase,
                                int32_t move) {
  fault_ = {status, phase, move};
  return status;
}

int32_t PostedDriver::NewActive(PeerState& peer, const Active& active) {
  if (peer.free_actives.empty()) {
    peer.actives.push_back(active);
    return static_cast<int32_t>(peer.actives.size()) - 1;
  }
  const int32_t name = peer.free_actives.back();
  peer.free_actives.pop_back();
  peer.actives[name] = active;
  return name;
}

bool PostedDriver::BeginStaged(PeerState& peer, LocalWork& work) {
  if (peer.next_staged == peer.transfers.staged.size()) return false;
  const Transfer& transfer = peer.transfers.staged[peer.next_staged];
  // A peer keeps to its share, but can always have one slot.
  if (peer.slots_used_bytes > 0 &&
      peer.slots_used_bytes + transfer.slot_bytes > share_bytes_) {
    return false;
  }
  const std::optional<int64_t> slot = staging_.Take(transfer.slot_bytes);
  if (!slot) return false;
  peer.slots_used_bytes += transfer.slot_bytes;
  Active active;
  active.transfer = static_cast<int32_t>(peer.next_staged++);
  active.staged = true;
  active.slot_offset_bytes = *slot;
  const int32_t name = NewActive(peer, active);
  if (pull()) {
    peer.posting.push_back(name);
  } else {
    work.Add({peer.index, active.transfer, name, *slot});
  }
  return true;
}

bool PostedDriver::BeginDirect(PeerState& peer) {
  if (peer.next_direct == peer.transfers.direct.size()) return false;
  Active active;
  active.transfer = static_cast<int32_t>(peer.next_direct++);
  peer.posting.push_back(NewActive(peer, active));
  return true;
}

void PostedDriver::Retire(PeerState& peer, int32_t active_name,
                          LocalWork& work) {
  const Active& active = peer.actives[active_name];
  const Transfer& transfer = TransferOf(peer, active);
  if (active.staged) {
    staging_.GiveBack(active.slot_offset_bytes, transfer.slot_bytes);
    peer.slots_used_bytes -= transfer.slot_bytes;
    peer.bytes_done += transfer.dst_bytes;
  } else {
    peer.bytes_done += transfer.dst_bytes % transfer.num_ops;
  }
  peer.free_actives.push_back(active_name);
  --num_unfinished_;
  int32_t& left = transfers_left_[transfer.move];
  if (left > 0 && --left == 0) work.Add(SlotJob::Landed(transfer.move));
}

void PostedDriver::WireDone(PeerState& peer, int32_t active_name,
                            LocalWork& work) {
  const Active& active = peer.actives[active_name];
  if (active.staged && pull()) {
    work.Add(
        {peer.index, active.transfer, active_name, active.slot_offset_bytes});
  } else {
    Retire(peer, active_name, work);
  }
}

void PostedDriver::CollectCopied(LocalWork& work, bool& advanced) {
  work.TakeDone(copied_);
  for (const SlotJob& job : copied_) {
    PeerState& peer = peers_[job.peer];
    advanced = true;
    if (pull()) {
      Retire(peer, job.active, work);
    } else {
      peer.posting.push_back(job.active);
    }
  }
}

absl::StatusOr<bool> PostedDriver::PollPeer(PeerState& peer, LocalWork& work) {
  if (peer.in_flight == 0) return false;
  peer.completions.clear();
  peer.peer->Poll(peer.completions);
  bool advanced = false;
  for (const transport::Completion& completion : peer.completions) {
    // Others may use the peer between runs; their tags are not ours.
    if ((completion.tag & kGenerationMask) != generation_) continue;
    const auto op = static_cast<int32_t>(completion.tag & ~kGenerationMask);
    const int32_t name = peer.op_active[op];
    peer.free_ops.push_back(op);
    --peer.in_flight;
    Active& active = peer.actives[name];
    --active.outstanding;
    const Transfer& transfer = TransferOf(peer, active);
    if (!completion.status.ok()) {
      // The rest of this batch is counted, so that draining can end.
      if (fault_.status.ok()) {
        Fail(completion.status, PhaseOf(transfer, binding_.direction),
             transfer.move)
            .IgnoreError();
      }
      continue;
    }
    advanced = true;
    if (!active.staged) {
      peer.bytes_done += transfer.dst_bytes / transfer.num_ops;
    }
    if (active.outstanding == 0 && active.next_op == transfer.num_ops) {
      WireDone(peer, name, work);
    }
  }
  if (!fault_.status.ok()) return fault_.status;
  return advanced;
}

absl::Status PostedDriver::PostOne(PeerState& peer, int32_t active_name) {
  Active& active = peer.actives[active_name];
  const Transfer& transfer = TransferOf(peer, active);
  std::byte* const local =
      active.staged ? staging_.at(active.slot_offset_bytes) : transfer.near;
  const transport::Region* const region =
      active.staged ? peer.staging_region : transfer.near_region;
  const int32_t op_name = peer.free_ops.back();
  const transport::OpTag tag = generation_ | static_cast<uint32_t>(op_name);
  absl::Status status = PostOperation(*peer.peer, transfer, active.next_op,
                                      local, region, binding_.direction, tag);
  if (!status.ok()) {
    return Fail(std::move(status), PhaseOf(transfer, binding_.direction),
                transfer.move);
  }
  peer.free_ops.pop_back();
  peer.op_active[op_name] = active_name;
  ++peer.in_flight;
  ++active.outstanding;
  ++active.next_op;
  if (active.next_op == transfer.num_ops) peer.posting.pop_front();
  return absl::OkStatus();
}

absl::StatusOr<bool> PostedDriver::PostToPeer(PeerState& peer,
                                              LocalWork& work) {
  bool advanced = false;
  while (!peer.free_ops.empty()) {
    if (peer.posting.empty()) {
      // Staged ones first: a core works on them after the wire has.
      const bool began = BeginStaged(peer, work) || BeginDirect(peer);
      if (!began) break;
      advanced = true;
      continue;
    }
    WEFT_RETURN_IF_ERROR(PostOne(peer, peer.posting.front()));
    advanced = true;
  }
  return advanced;
}

absl::StatusOr<bool> PostedDriver::Service(LocalWork& work) {
  bool advanced = false;
  CollectCopied(work, advanced);
  for (size_t i = 0; i < peers_.size(); ++i) {
    PeerState& peer = peers_[(first_peer_ + i) % peers_.size()];
    if (peer.op_active.empty()) continue;  // nothing posted there
    WEFT_ASSIGN_OR_RETURN(const bool polled, PollPeer(peer, work));
    WEFT_ASSIGN_OR_RETURN(const bool posted, PostToPeer(peer, work));
    advanced |= polled || posted;
  }
  if (!peers_.empty()) first_peer_ = (first_peer_ + 1) % peers_.size();
  return advanced;
}

int PostedDriver::UnfinishedPeer() const {
  for (const PeerState& peer : peers_) {
    const bool all_begun = peer.next_staged == peer.transfers.staged.size() &&
                           peer.next_direct == peer.transfers.direct.size();
    if (!all_begun || peer.free_actives.size() != peer.actives.size()) {
      return peer.index;
    }
  }
  return -1;
}

PostedFault PostedDriver::Standing(int peer_index) const {
  const PeerState& peer = peers_[peer_index];
  const PeerTransfers& all = peer.transfers;
  const Transfer* transfer = nullptr;
  if (!peer.posting.empty()) {
    transfer = &TransferOf(peer, peer.actives[peer.posting.front()]);
  } else if (peer.in_flight > 0) {
    for (size_t op = 0; op < peer.op_active.size() && !transfer; ++op) {
      const bool in_use =
          std::find(peer.free_ops.begin(), peer.free_ops.end(),
                    static_cast<int32_t>(op)) == peer.free_ops.end();
      if (in_use)
        transfer = &TransferOf(peer, peer.actives[peer.op_active[op]]);
    }
  } else if (peer.next_staged < all.staged.size()) {
    transfer = &all.staged[peer.next_staged];
  } else if (peer.next_direct < all.direct.size()) {
    transfer = &all.direct[peer.next_direct];
  }
  if (transfer == nullptr && !all.staged.empty()) transfer = &all.staged.back();
  if (transfer == nullptr && !all.direct.empty()) transfer = &all.direct.back();
  if (transfer == nullptr) return {};
  return {absl::OkStatus(), PhaseOf(*transfer, binding_.direction),
          transfer->move};
}

}  // namespace weft::execute
