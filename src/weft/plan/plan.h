// Plan: which elements go from which source rank to which place in the target
// rank, proven to be exactly what the target needs. Address-free and pure.
#ifndef WEFT_PLAN_PLAN_H_
#define WEFT_PLAN_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/run.h"
#include "weft/manifest/placement.h"
#include "weft/tensor/conversion.h"

namespace weft::plan {

// Source fragment -> destination fragment, over one logical box.
struct Move {
  int32_t tensor = 0;  // index into target.tensors
  int32_t src_stored = 0;
  int32_t src_fragment = 0;
  int32_t dst_stored = 0;
  int32_t dst_fragment = 0;
  tensor::Box box;  // logical coordinates
  tensor::Conversion conversion;
  std::vector<layout::Run> runs;
  friend bool operator==(const Move&, const Move&) = default;
};

inline constexpr int64_t kScratchAlignBytes = 64;

// Elements that are read only to complete digest tiles that a move cuts
// through (docs/decisions/0003-digest-tiles.md): logical box -> scratch, a
// row-major block of the box, in the dtype of the source (`conversion.from`),
// at `scratch_offset_bytes` of the plan's scratch, a multiple of
// kScratchAlignBytes.
struct Witness {
  int32_t move = 0;  // index into PeerPlan::moves
  tensor::Box box;
  // Destination offsets are elements within the witness's own block.
  std::vector<layout::Run> runs;
  int64_t scratch_offset_bytes = 0;
  friend bool operator==(const Witness&, const Witness&) = default;
};

struct PeerPlan {
  int64_t src_rank = 0;
  std::vector<Move> moves;
  std::vector<Witness> witnesses;
  int64_t src_bytes = 0;      // read from the peer by the moves
  int64_t dst_bytes = 0;      // written here by them (differs on conversion)
  int64_t witness_bytes = 0;  // read from the peer by the witnesses
  friend bool operator==(const PeerPlan&, const PeerPlan&) = default;
};

struct ZeroFill {
  int32_t dst_stored = 0;
  tensor::Box box;  // stored coordinates
  friend bool operator==(const ZeroFill&, const ZeroFill&) = default;
};

// One line of "which conversions happen and do they lose bits".
struct ConversionUse {
  tensor::Conversion conversion;
  bool lossy = false;
  int64_t num_tensors = 0;
  int64_t num_elements = 0;
  friend bool operator==(const ConversionUse&, const ConversionUse&) = default;
};

struct PlanTotals {
  int64_t moves = 0;
  int64_t runs = 0;  // of the moves, without those of the witnesses
  int64_t src_bytes = 0;
  int64_t dst_bytes = 0;
  int64_t witness_bytes = 0;
  int64_t zero_fill_bytes = 0;
  int64_t scratch_bytes = 0;  // for witnesses
  // Contiguous on both sides, bytes at the source; 0 without moves.
  int64_t shortest_run_bytes = 0;
  int64_t longest_run_bytes = 0;
  // What posted access may stage: the bytes of runs shorter than
  // kDirectRunBytes, at most PlanLimits::staging_bytes.
  int64_t peak_staging_bytes = 0;
  friend bool operator==(const PlanTotals&, const PlanTotals&) = default;
};

struct Plan {
  manifest::LayoutDigest source_digest;  // CombineDigests over the sources
  manifest::LayoutDigest target_digest;
  int64_t target_rank = 0;
  std::vector<PeerPlan> peers;  // by ascending src_rank; only peers with moves
  std::vector<ZeroFill> zero_fills;
  std::vector<ConversionUse> conversions;  // empty when all dtypes agree
  PlanTotals totals;
  friend bool operator==(const Plan&, const Plan&) = default;
};

// Contiguous bytes from which posted access is assumed to go direct.
inline constexpr int64_t kDirectRunBytes = int64_t{64} << 10;

struct PlanLimits {
  // Memory that posted access may use for staging, bytes. At least 4 KiB.
  int64_t staging_bytes = int64_t{64} << 20;
  // Ceiling on runs of one plan, witnesses' runs included: a layout that needs
  // more is refused.
  int64_t max_runs = int64_t{1} << 22;
};

// What the planner may know about distance: same-host ranks are nearer.
struct SourceInfo {
  const manifest::Placement* placement = nullptr;  // outlives the index
  manifest::LayoutDigest digest;
  int32_t distance = 0;  // 0 = same host; larger is farther
};

// Sources indexed by logical tensor: made once, used for every target rank.
// Immutable and thread-safe after Make. Only Make creates one.
class SourceIndex {
 public:
  // Checks that the sources belong together: at least one, ranks unique and
  // below num_ranks, one layout_spec and num_ranks, the same shape and dtype of
  // every logical tensor that two ranks share, and fragments that lie within
  // their tensors on both sides. All faults at once, kInvalidArgument. A mesh
  // with missing ranks is fine here: BuildPlan says what they would have held.
  static absl::StatusOr<std::shared_ptr<const SourceIndex>> Make(
      std::vector<SourceInfo> sources);
  virtual ~SourceIndex() = default;
  SourceIndex(const SourceIndex&) = delete;
  SourceIndex& operator=(const SourceIndex&) = delete;
  // By ascending rank, whatever the order given to Make.
  virtual const std::vector<SourceInfo>& sources() const = 0;
  // manifest::CombineDigests over the sources in that order.
  virtual const manifest::LayoutDigest& digest() const = 0;

 private:
  friend class SourceTable;
  SourceIndex() = default;
};

// Plans one target rank. Pure: equal inputs give equal plans, byte for byte.
// Among replicas: the mildest conversion (none, then exact, then lossy), then
// the nearest, then the least loaded within this plan, then a spread by the
// target's rank; large fragments choose first. `target` must have passed
// manifest::CheckPlacement. Moves are ordered by (dst_stored, dst_fragment,
// box), boxes by (begin, end) of the first dimension, then of the next. Every
// destination element comes from exactly one source or is zero-filled by
// declaration; otherwise kFailedPrecondition with all faults at once: tensor,
// box, target rank, and the source ranks that are missing from the mesh.
// kInvalidArgument when the two sides disagree on a tensor's shape,
// kUnimplemented on a conversion that does not exist, kResourceExhausted over
// the limits.
absl::StatusOr<Plan> BuildPlan(const SourceIndex& sources,
                               const manifest::Placement& target,
                               const manifest::LayoutDigest& target_digest,
                               const PlanLimits& limits);

// Independent proof, from the plan's moves and runs alone: each element of
// each destination stored tensor is written exactly once (by one move's run or
// by a zero fill) with the source element of the same logical coordinates, and
// sources are read within their stored tensors. That the target's fragments
// and zero fills tile its stored tensors is manifest::CheckPlacement's proof.
// BuildPlan has run it already; anybody may run it again. All faults at once,
// kFailedPrecondition.
absl::Status CheckCoverage(const Plan& plan, const SourceIndex& sources,
                           const manifest::Placement& target);

}  // namespace weft::plan

#endif  // WEFT_PLAN_PLAN_H_
