// Binding: a plan's moves and witnesses with the memory they touch, checked.
// After BindMemory has returned OK no offset of the plan is checked again.
#ifndef WEFT_EXECUTE_BINDING_INTERNAL_H_
#define WEFT_EXECUTE_BINDING_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/execute/executor.h"
#include "weft/execute/far_run_internal.h"
#include "weft/layout/index_map.h"
#include "weft/memory/buffer.h"
#include "weft/plan/plan.h"
#include "weft/tensor/box.h"

namespace weft::execute {

// A move, or a witness (a move into scratch).
struct BoundMove {
  int32_t peer = 0;              // index into Binding::peers
  int32_t plan_move = -1;        // into the plan's peer; -1 = a witness
  int32_t converted_table = -1;  // index of its digest table, -1 = identity
  bool witness = false;
  int32_t plan_witness = -1;     // into the plan's peer
  std::string_view tensor_name;  // of the plan's target
  tensor::Conversion conversion;
  const std::vector<layout::Run>* runs = nullptr;
  // Only for moves that convert, and for all that a GPU carries: both index
  // maps, which contain `box`.
  const layout::IndexMap* src_map = nullptr;
  const layout::IndexMap* dst_map = nullptr;
  tensor::Box box;

  const transport::RemoteRegion* far_region = nullptr;
  int64_t far_offset_bytes = 0;     // of the stored tensor in far_region
  std::byte* far_mapped = nullptr;  // of the stored tensor; null = posted
  std::byte* near = nullptr;
  const transport::Region* near_region = nullptr;  // may be null
  int64_t dst_bytes = 0;                           // written at the destination
  int64_t src_bytes = 0;
};

struct BoundPeer {
  int64_t rank = 0;
  size_t plan_peer = 0;
  transport::Peer* peer = nullptr;
  transport::Transport* transport = nullptr;  // may be null
  int64_t total_bytes = 0;                    // dst_bytes of its moves
};

struct Binding {
  Direction direction = Direction::kPull;
  std::vector<BoundPeer> peers;
  std::vector<BoundMove> moves;  // by peer; a peer's witnesses after its moves
  int64_t scratch_bytes = 0;
  std::unique_ptr<memory::Buffer> scratch;  // null when there are no witnesses
  // Instead of it, where a GPU carries the plan.
  std::unique_ptr<memory::DeviceBuffer> device_scratch;
  // Converting moves, by digest table: (plan peer, move).
  struct ConvertedMove {
    size_t plan_peer = 0;
    size_t move = 0;
  };
  std::vector<ConvertedMove> converted;
};

struct BindInputs {
  const plan::Plan& plan;
  const plan::SourceIndex& sources;
  const manifest::Placement& target;
  Direction direction;
  int64_t src_rank;  // push: the rank of this process
  absl::Span<const LocalStored> local;
  absl::Span<const RemoteRank> remotes;
  const ExecuteOptions& options;
  // The GPU that carries the plan, or kHostMemory.
  int device = memory::kHostMemory;
};

// All faults at once: kOutOfRange when every fault is an access beyond a
// memory, else kInvalidArgument.
absl::StatusOr<Binding> BindMemory(const BindInputs& inputs);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_BINDING_INTERNAL_H_
