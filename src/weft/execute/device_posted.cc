#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/device_posted_internal.h"
#include "weft/execute/planes.h"
#include "weft/execute/posted_driver_internal.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::execute {
namespace {

namespace cuda = convert::cuda;

// While one part is scattered the other one is filled.
constexpr int64_t kRingParts = 2;
// Between operations a GPU pauses for some four microseconds, in which NVLink
// carries 1.5 MB.
constexpr int64_t kMaxDeviceSlotBytes = int64_t{16} << 20;
constexpr int64_t kMinDeviceSlotBytes = 512;
constexpr int64_t kSlotAlignBytes = 64;

// Position in `grid` of the tile that holds the element at `corner`.
int64_t TileOf(const tensor::TileGrid& grid, const tensor::Shape& corner) {
  absl::InlinedVector<int64_t, 4> tile;
  const tensor::Shape extents =
      tensor::TileShape(static_cast<int>(corner.size()));
  for (size_t d = 0; d < corner.size(); ++d) {
    tile.push_back(corner[d] / extents[d]);
  }
  return grid.IndexOf(tile);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePosted>> DevicePosted::Make(
    const Binding& binding, const ExecuteOptions& options, int device) {
  const bool posted =
      std::any_of(binding.moves.begin(), binding.moves.end(),
                  [](const BoundMove& m) { return m.far_mapped == nullptr; });
  if (!posted) return nullptr;
  std::unique_ptr<DevicePosted> made(
      new DevicePosted(binding, options, device));
  WEFT_ASSIGN_OR_RETURN(made->queue_, options.device.driver->MakeQueue(device));
  WEFT_RETURN_IF_ERROR(made->CompilePeers());
  made->PlaceTransfers();
  WEFT_RETURN_IF_ERROR(made->MakeRing());
  WEFT_RETURN_IF_ERROR(made->BuildRounds());
  return made;
}

absl::Status DevicePosted::CompilePeers() {
  part_bytes_ =
      std::max(kMinDeviceSlotBytes, options_.staging_bytes / kRingParts /
                                        kSlotAlignBytes * kSlotAlignBytes);
  const int64_t max_slot_bytes = std::min(kMaxDeviceSlotBytes, part_bytes_);
  peers_.resize(binding_.peers.size());
  for (size_t p = 0; p < peers_.size(); ++p) {
    peers_[p].peer = binding_.peers[p].peer;
    peers_[p].transport = binding_.peers[p].transport;
    // Bytes of one peer all take one way.
    bool through_host = false;
    for (const BoundMove& move : binding_.moves) {
      if (move.peer != static_cast<int32_t>(p)) continue;
      through_host |= !move.far_region->on_peer_device() ||
                      !move.far_region->through_host().empty();
    }
    const WireCost cost = through_host
                              ? WireCost::Of(peers_[p].transport)
                              : WireCost::OfDevices(peers_[p].transport);
    WEFT_ASSIGN_OR_RETURN(peers_[p].transfers,
                          CompilePosted(binding_, static_cast<int>(p), cost,
                                        options_.posted_way, max_slot_bytes));
    peers_[p].op_placed.resize(static_cast<size_t>(options_.window));
  }
  converted_.resize(binding_.converted.size());
  for (const BoundMove& move : binding_.moves) {
    if (move.converted_table < 0) continue;
    converted_[move.converted_table].resize(
        static_cast<size_t>(tensor::TileGrid::Of(move.box).num_tiles));
  }
  return absl::OkStatus();
}

// Peers take turns, so that all of their wires work at any time.
void DevicePosted::PlaceTransfers() {
  int64_t used_bytes = part_bytes_ + 1;  // no round is open
  bool more = true;
  for (size_t i = 0; more; ++i) {
    more = false;
    for (size_t p = 0; p < peers_.size(); ++p) {
      const PeerTransfers& all = peers_[p].transfers;
      const auto add = [&](Placed placed, Cursor& cursor) {
        cursor.list.push_back(static_cast<int32_t>(placed_.size()));
        placed.peer = static_cast<int32_t>(p);
        placed_.push_back(placed);
        more = true;
      };
      if (i < all.direct.size()) {
        add({.transfer = &all.direct[i]}, peers_[p].direct);
      }
      if (i >= all.staged.size()) continue;
      const int64_t bytes =
          base::AlignUp(all.staged[i].slot_bytes, kSlotAlignBytes);
      if (used_bytes + bytes > part_bytes_) {
        rounds_.emplace_back();
        used_bytes = 0;
      }
      const auto round = static_cast<int64_t>(rounds_.size()) - 1;
      const int64_t offset = round % kRingParts * part_bytes_ + used_bytes;
      add({.round = static_cast<int32_t>(round),
           .transfer = &all.staged[i],
           .ring_offset_bytes = offset},
          peers_[p].staged);
      used_bytes += bytes;
      ring_bytes_ = std::max(ring_bytes_, offset + bytes);
      ++rounds_.back().num_transfers;
    }
  }
}

absl::Status DevicePosted::MakeRing() {
  if (ring_bytes_ == 0) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(
      ring_, memory::DeviceBuffer::Allocate(*options_.device.driver, device_,
                                            ring_bytes_));
  for (PeerState& peer : peers_) {
    if (peer.transport == nullptr || peer.staged.list.empty()) continue;
    for (const auto& [transport, region] : ring_regions_) {
      if (transport == peer.transport) peer.ring_region = region.get();
    }
    if (peer.ring_region != nullptr) continue;
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Region> region,
        peer.transport->Register(
            {ring_->data(), static_cast<size_t>(ring_bytes_)}, nullptr));
    peer.ring_region = region.get();
    ring_regions_.emplace_back(peer.transport, std::move(region));
  }
  return absl::OkStatus();
}

absl::Status DevicePosted::BuildRounds() {
  std::vector<cuda::ProgramSpec> specs(rounds_.size());
  for (const Placed& placed : placed_) {
    if (placed.round < 0) continue;
    WEFT_RETURN_IF_ERROR(
        AddToRound(placed, rounds_[placed.round], specs[placed.round]));
  }
  for (size_t r = 0; r < rounds_.size(); ++r) {
    WEFT_ASSIGN_OR_RETURN(
        rounds_[r].scatter,
        options_.device.build(device_, specs[r],
                              {.copy_way = options_.device.copy_way}));
    specs[r] = {};
  }
  return absl::OkStatus();
}

absl::Status DevicePosted::AddToRound(const Placed& placed, Round& round,
                                      cuda::ProgramSpec& spec) {
  const PeerTransfers& all = peers_[placed.peer].transfers;
  const Transfer& transfer = *placed.transfer;
  const std::byte* const slot = ring_->data() + placed.ring_offset_bytes;
  for (int64_t i = transfer.copies_begin; i < transfer.copies_end; ++i) {
    cuda::Copy copy;
    copy.copy = all.copies[i].copy;
    copy.copy.src = slot + all.copies[i].slot_offset_bytes;
    spec.copies.push_back(std::move(copy));
  }
  for (int64_t i = transfer.digests_begin; i < transfer.digests_end; ++i) {
    const SlotDigest& digest = all.digests[i];
    const tensor::Box& box = digest.map.box();
    if (box.empty()) continue;
    const tensor::TileGrid grid =
        tensor::TileGrid::Of(binding_.moves[transfer.move].box);
    tensor::Shape first;
    tensor::Shape last;
    for (const tensor::Range& range : box.ranges()) {
      first.push_back(range.begin);
      last.push_back(range.end - 1);
    }
    Slice slice{.table = digest.table,
                .first_in_table = TileOf(grid, first),
                .first_in_program = spec.num_values};
    slice.num_values = TileOf(grid, last) + 1 - slice.first_in_table;
    AppendDigests(box, digest.map, slot,
                  static_cast<int>(tensor::ItemBytes(digest.dtype)), grid,
                  slice.first_in_program - slice.first_in_table, spec.digests);
    spec.num_values += slice.num_values;
    round.slices.push_back(slice);
  }
  return absl::OkStatus();
}

DevicePosted::~DevicePosted() {
  queue_.reset();  // waits for what runs
  if (Drain() == 0 || ring_ == nullptr) return;
  // Memory that an operation may still write to is never given back.
  static absl::Mutex mutex(absl::kConstInit);
  static auto* const abandoned =
      new std::vector<std::unique_ptr<memory::DeviceBuffer>>;
  const absl::MutexLock lock(&mutex);
  abandoned->push_back(std::move(ring_));
}

absl::Status DevicePosted::Begin(const convert::DigestConstants* constants,
                                 base::Deadline deadline) {
  if (const int64_t left = Drain(); left > 0) {
    return absl::UnavailableError(absl::StrCat(
        left,
        " operations of an earlier run are still in flight; destroy the "
        "peer and the program, then connect again"));
  }
  constants_ = constants;
  generation_ = NextTagGeneration();
  direct_left_ = 0;
  for (Placed& placed : placed_) {
    placed.ops_left = placed.transfer->num_ops;
    direct_left_ += placed.round < 0 ? 1 : 0;
  }
  for (Round& round : rounds_) {
    round.transfers_left = round.num_transfers;
    round.done = false;
  }
  for (PeerState& peer : peers_) {
    for (Cursor* cursor : {&peer.staged, &peer.direct}) {
      cursor->next = 0;
      cursor->next_op = 0;
    }
    peer.free_ops.clear();
    for (size_t op = peer.op_placed.size(); op-- > 0;) {
      peer.free_ops.push_back(static_cast<int32_t>(op));
    }
  }
  rounds_left_ = static_cast<int64_t>(rounds_.size());
  first_open_round_ = 0;
  for (auto& values : converted_) {
    std::fill(values.begin(), values.end(), convert::DigestValue());
  }
  if (!options_.device.stream.has_value()) return absl::OkStatus();
  // The transport knows no streams: what writes or reads the memory must have
  // come to its end before the first byte arrives.
  WEFT_RETURN_IF_ERROR(queue_->WaitForStream(*options_.device.stream));
  return queue_->Wait(deadline, "waiting for the framework's stream");
}

absl::Status DevicePosted::Service() {
  WEFT_RETURN_IF_ERROR(FinishRounds());
  for (PeerState& peer : peers_) {
    WEFT_RETURN_IF_ERROR(PollPeer(peer));
    WEFT_RETURN_IF_ERROR(PostToPeer(peer));
  }
  return absl::OkStatus();
}

absl::Status DevicePosted::Fail(const absl::Status& status,
                                const Placed& placed) const {
  const BoundMove& move = binding_.moves[placed.transfer->move];
  return base::Annotate(
      status,
      absl::StrCat(PhaseOf(*placed.transfer, Direction::kPull),
                   " from publisher rank ", binding_.peers[placed.peer].rank,
                   ", tensor \"", std::string(move.tensor_name), "\", ",
                   placed.transfer->wire_bytes, " bytes"));
}

absl::Status DevicePosted::PollPeer(PeerState& peer) {
  if (peer.in_flight == 0) return absl::OkStatus();
  completions_.clear();
  peer.peer->Poll(completions_);
  absl::Status failure;
  for (const transport::Completion& completion : completions_) {
    // Others may use the peer between runs; their tags are not ours.
    if ((completion.tag & kGenerationMask) != generation_) continue;
    const auto op = static_cast<int32_t>(completion.tag & ~kGenerationMask);
    Placed& placed = placed_[peer.op_placed[op]];
    peer.free_ops.push_back(op);
    --peer.in_flight;
    // The rest of this batch is counted, so that draining can end.
    if (!failure.ok()) continue;
    failure = completion.status.ok() ? Landed(placed)
                                     : Fail(completion.status, placed);
  }
  return failure;
}

absl::Status DevicePosted::Landed(Placed& placed) {
  if (--placed.ops_left > 0) return absl::OkStatus();
  if (placed.round < 0) {
    --direct_left_;
    return absl::OkStatus();
  }
  Round& round = rounds_[placed.round];
  if (--round.transfers_left > 0) return absl::OkStatus();
  return round.scatter->Launch(
      reinterpret_cast<CUstream_st*>(queue_->stream()),
      {.num_sms = options_.device.num_sms, .constants = constants_});
}

absl::Status DevicePosted::FinishRounds() {
  while (first_open_round_ < rounds_.size()) {
    Round& round = rounds_[first_open_round_];
    if (round.transfers_left > 0) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(const bool done, round.scatter->Done());
    if (!done) return absl::OkStatus();
    round.done = true;
    --rounds_left_;
    ++first_open_round_;
    if (constants_ == nullptr) continue;
    const auto values = round.scatter->digest_values();
    for (const Slice& slice : round.slices) {
      for (int64_t i = 0; i < slice.num_values; ++i) {
        converted_[slice.table][slice.first_in_table + i] +=
            values[slice.first_in_program + i];
      }
    }
  }
  return absl::OkStatus();
}

bool DevicePosted::Ready(const PeerState& peer, const Cursor& cursor) const {
  if (peer.free_ops.empty() || cursor.next == cursor.list.size()) return false;
  const int32_t round = placed_[cursor.list[cursor.next]].round;
  return round < kRingParts || rounds_[round - kRingParts].done;
}

absl::Status DevicePosted::PostToPeer(PeerState& peer) {
  // Staged ones first: a program works on them after the wire has.
  while (Ready(peer, peer.staged)) {
    WEFT_RETURN_IF_ERROR(PostOne(peer, peer.staged));
  }
  while (Ready(peer, peer.direct)) {
    WEFT_RETURN_IF_ERROR(PostOne(peer, peer.direct));
  }
  return absl::OkStatus();
}

absl::Status DevicePosted::PostOne(PeerState& peer, Cursor& cursor) {
  const int32_t name = cursor.list[cursor.next];
  const Placed& placed = placed_[name];
  const Transfer& transfer = *placed.transfer;
  const bool staged = placed.round >= 0;
  std::byte* const local =
      staged ? ring_->data() + placed.ring_offset_bytes : transfer.near;
  const transport::Region* const region =
      staged ? peer.ring_region : transfer.near_region;
  const int32_t op_name = peer.free_ops.back();
  const transport::OpTag tag = generation_ | static_cast<uint32_t>(op_name);
  const absl::Status status =
      PostOperation(*peer.peer, transfer, cursor.next_op, local, region,
                    Direction::kPull, tag);
  if (!status.ok()) return Fail(status, placed);
  peer.free_ops.pop_back();
  peer.op_placed[op_name] = name;
  ++peer.in_flight;
  if (++cursor.next_op < transfer.num_ops) return absl::OkStatus();
  ++cursor.next;
  cursor.next_op = 0;
  return absl::OkStatus();
}

void DevicePosted::Abort() {
  for (const Round& round : rounds_) round.scatter->Abort().IgnoreError();
}

int64_t DevicePosted::Drain() {
  const base::Deadline bound = base::Deadline::After(kPostedDrainBound);
  while (true) {
    int64_t left = 0;
    for (PeerState& peer : peers_) {
      if (peer.in_flight == 0) continue;
      peer.in_flight =
          PollToDrain(*peer.peer, generation_, peer.in_flight, completions_);
      left += peer.in_flight;
    }
    if (left == 0 || bound.Passed()) return left;
    std::this_thread::yield();
  }
}

}  // namespace weft::execute
