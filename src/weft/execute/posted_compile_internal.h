// The posted path: moves to or from a peer that is reached by operations,
// compiled into transfers.
#ifndef WEFT_EXECUTE_POSTED_COMPILE_INTERNAL_H_
#define WEFT_EXECUTE_POSTED_COMPILE_INTERNAL_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "weft/convert/kernel.h"
#include "weft/execute/binding_internal.h"
#include "weft/execute/wire_way_internal.h"
#include "weft/layout/index_map.h"

namespace weft::execute {

// A copy between near memory and a slot; the slot's end is null.
struct SlotCopy {
  convert::StridedCopy copy;
  int64_t slot_offset_bytes = 0;
};

// The digest of source values, in the slot (pull) or in near memory (push).
struct SlotDigest {
  const std::byte* base = nullptr;  // null = the slot
  layout::IndexMap map;
  tensor::DType dtype = tensor::DType::kBF16;
  int32_t table = 0;
};

// One operation of a transfer.
struct WireOp {
  int64_t far_offset_bytes = 0;    // in the region
  int64_t local_offset_bytes = 0;  // from the slot, or from near memory
  int64_t bytes = 0;
};

// One or many operations and the copies that belong to them. Without a slot
// (slot_bytes == 0) the operations work on near memory.
struct Transfer {
  struct Mode {
    int64_t extent = 1;
    int64_t far_stride_bytes = 0;
    int64_t local_stride_bytes = 0;
  };
  WireWay way = WireWay::kDirect;
  int32_t move = 0;  // into Binding::moves; the first one when several
  const transport::RemoteRegion* region = nullptr;
  int64_t far_offset_bytes = 0;
  absl::InlinedVector<Mode, 3> modes;  // of pieces, outermost first
  int64_t piece_bytes = 0;
  int64_t ops_per_piece = 1;  // long pieces are cut
  int64_t num_ops = 0;
  int64_t wire_bytes = 0;
  int64_t dst_bytes = 0;
  int64_t slot_bytes = 0;
  std::byte* near = nullptr;  // without a slot
  const transport::Region* near_region = nullptr;
  int64_t copies_begin = 0;  // into PeerTransfers::copies
  int64_t copies_end = 0;
  int64_t digests_begin = 0;  // into PeerTransfers::digests
  int64_t digests_end = 0;

  // Operation number `index`, 0 <= index < num_ops.
  WireOp Op(int64_t index) const;
};

// All transfers with one peer.
struct PeerTransfers {
  std::vector<Transfer> staged;
  std::vector<Transfer> direct;
  std::vector<SlotCopy> copies;
  std::vector<SlotDigest> digests;
  // Moves of which a part shares its transfer with other moves.
  std::vector<int32_t> joined_moves;
  int64_t total_slot_bytes = 0;
  std::array<bool, kNumWireWays> ways{};
  bool over_reads = false;    // some transfer reads bytes that nobody wants
  bool short_direct = false;  // some direct piece is below the threshold
};

// What a transfer by kGather asks for.
transport::StridedPieces PiecesOf(const Transfer& transfer);

// "mapped", "direct", "direct+over-read" ...
std::string WayOf(bool mapped, const PeerTransfers& transfers,
                  Direction direction);

// Compiles the moves of peer number `peer` that have no far_mapped.
// `max_slot_bytes`: no transfer takes more staging.
absl::StatusOr<PeerTransfers> CompilePosted(const Binding& binding, int peer,
                                            const WireCost& cost,
                                            PostedWay forced,
                                            int64_t max_slot_bytes);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_POSTED_COMPILE_INTERNAL_H_
