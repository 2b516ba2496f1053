#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/plan/count_plan.h"
#include "weft/plan/move_runs.h"
#include "weft/plan/select_pieces.h"
#include "weft/plan/source_table.h"
#include "weft/tensor/tile_grid.h"

namespace weft::plan {
namespace {

using layout::IndexMap;
using layout::Run;
using tensor::Box;

constexpr int64_t kMinStagingBytes = 4096;

// True when no digest tile has elements of `box` and others of `clip`, so that
// TileCover(box, clip) == box without making it.
bool IsWholeTiles(const Box& box, const Box& clip) {
  const tensor::Shape tile = tensor::TileShape(box.rank());
  for (int dim = 0; dim < box.rank(); ++dim) {
    if (tile[dim] == 1) continue;
    const tensor::Range& range = box.range(dim);
    if ((range.begin % tile[dim] != 0 &&
         range.begin != clip.range(dim).begin) ||
        (range.end % tile[dim] != 0 && range.end != clip.range(dim).end)) {
      return false;
    }
  }
  return true;
}

// Turns pieces into moves with runs and witnesses.
class PlanWriter {
 public:
  PlanWriter(const SourceTable& sources, const manifest::Placement& target,
             const PlanLimits& limits)
      : sources_(sources),
        target_(target),
        limits_(limits),
        runs_left_(limits.max_runs) {}

  absl::StatusOr<Plan> Write(const std::vector<Piece>& pieces,
                             const manifest::LayoutDigest& target_digest);

 private:
  absl::Status AddMove(const Piece& piece, PeerPlan& peer);
  absl::Status AddWitnesses(const Move& move, const IndexMap& src,
                            int32_t index, PeerPlan& peer);
  void AddZeroFills(Plan& plan) const;
  absl::Status Annotated(const absl::Status& status, const Move& move) const;

  const SourceTable& sources_;
  const manifest::Placement& target_;
  const PlanLimits& limits_;
  int64_t runs_left_;
};

absl::StatusOr<Plan> PlanWriter::Write(
    const std::vector<Piece>& pieces,
    const manifest::LayoutDigest& target_digest) {
  std::vector<PeerPlan> peers(sources_.sources().size());
  std::vector<size_t> moves_of_source(peers.size(), 0);
  for (const Piece& piece : pieces) ++moves_of_source[piece.from.source];
  for (size_t i = 0; i < peers.size(); ++i) {
    peers[i].src_rank = sources_.sources()[i].placement->rank;
    peers[i].moves.reserve(moves_of_source[i]);
  }
  for (const Piece& piece : pieces) {
    WEFT_RETURN_IF_ERROR(AddMove(piece, peers[piece.from.source]));
  }
  std::erase_if(peers, [](const PeerPlan& peer) { return peer.moves.empty(); });

  Plan plan;
  plan.source_digest = sources_.digest();
  plan.target_digest = target_digest;
  plan.target_rank = target_.rank;
  plan.peers = std::move(peers);
  AddZeroFills(plan);
  WEFT_RETURN_IF_ERROR(CountPlan(plan, limits_.staging_bytes));
  return plan;
}

absl::Status PlanWriter::AddMove(const Piece& piece, PeerPlan& peer) {
  const layout::StoredTensor& dst_stored = target_.stored[piece.dst_stored];
  const layout::Fragment& dst = dst_stored.fragments[piece.dst_fragment];
  const IndexMap& src_map = sources_.FragmentOf(piece.from).map;
  Move& move = peer.moves.emplace_back();
  move.tensor = dst.tensor;
  move.src_stored = piece.from.stored;
  move.src_fragment = piece.from.fragment;
  move.dst_stored = piece.dst_stored;
  move.dst_fragment = piece.dst_fragment;
  move.box = piece.box;
  // The selection has refused what does not compose.
  move.conversion = {
      piece.from.dtype, dst_stored.dtype,
      *tensor::ComposeTransforms(piece.from.transform, dst.transform)};
  absl::StatusOr<std::vector<Run>> runs =
      RunsOfBox(src_map, dst.map, piece.box, runs_left_);
  if (!runs.ok()) return Annotated(runs.status(), move);
  move.runs = *std::move(runs);
  runs_left_ -= static_cast<int64_t>(move.runs.size());
  return AddWitnesses(move, src_map,
                      static_cast<int32_t>(peer.moves.size() - 1), peer);
}

absl::Status PlanWriter::AddWitnesses(const Move& move, const IndexMap& src,
                                      int32_t index, PeerPlan& peer) {
  if (IsWholeTiles(move.box, src.box())) return absl::OkStatus();
  const Box cover = tensor::TileCover(move.box, src.box());
  for (Box& box : tensor::Subtract(cover, move.box)) {
    WEFT_ASSIGN_OR_RETURN(const IndexMap scratch, ScratchMap(box));
    absl::StatusOr<std::vector<Run>> runs =
        RunsOfBox(src, scratch, box, runs_left_);
    if (!runs.ok()) return Annotated(runs.status(), move);
    runs_left_ -= static_cast<int64_t>(runs->size());
    peer.witnesses.push_back({index, std::move(box), *std::move(runs), 0});
  }
  return absl::OkStatus();
}

void PlanWriter::AddZeroFills(Plan& plan) const {
  for (size_t i = 0; i < target_.stored.size(); ++i) {
    const layout::StoredTensor& stored = target_.stored[i];
    for (const Box& box : stored.zero_fill) {
      if (box.empty()) continue;
      plan.zero_fills.push_back({static_cast<int32_t>(i), box});
      plan.totals.zero_fill_bytes +=
          box.num_elements() * tensor::ItemBytes(stored.dtype);
    }
  }
}

absl::Status PlanWriter::Annotated(const absl::Status& status,
                                   const Move& move) const {
  return base::Annotate(
      status,
      absl::StrCat("moving ", move.box.ToString(), " of \"",
                   target_.tensors[move.tensor].name, "\" to target rank ",
                   target_.rank, " within ", limits_.max_runs, " runs a plan"));
}

absl::Status CheckLimits(const PlanLimits& limits) {
  base::FaultList faults;
  if (limits.staging_bytes < kMinStagingBytes) {
    faults.Add(absl::StrCat("staging_bytes is ", limits.staging_bytes,
                            "; give at least ", kMinStagingBytes));
  }
  if (limits.max_runs < 1) {
    faults.Add(
        absl::StrCat("max_runs is ", limits.max_runs, "; give at least 1"));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

// Sums of bytes over the target's elements must fit 64 bits for any dtype.
absl::Status CheckSize(const manifest::Placement& target) {
  int64_t bytes = 0;
  for (const layout::StoredTensor& stored : target.stored) {
    WEFT_ASSIGN_OR_RETURN(const int64_t elements, layout::NumElements(stored));
    const std::optional<int64_t> more = base::CheckedMul(elements, 8);
    const std::optional<int64_t> sum =
        more ? base::CheckedAdd(bytes, *more) : std::nullopt;
    if (!sum.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the stored tensors of target rank ", target.rank, " up to \"",
          stored.name, "\" have more bytes than 64 bits can count"));
    }
    bytes = *sum;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Plan> BuildPlan(const SourceIndex& sources,
                               const manifest::Placement& target,
                               const manifest::LayoutDigest& target_digest,
                               const PlanLimits& limits) {
  const SourceTable& table = SourceTable::Of(sources);
  WEFT_RETURN_IF_ERROR(CheckLimits(limits));
  WEFT_RETURN_IF_ERROR(CheckSize(target));
  WEFT_ASSIGN_OR_RETURN(const std::vector<Piece> pieces,
                        PieceSelector(table, target).Select());
  WEFT_ASSIGN_OR_RETURN(
      Plan plan,
      PlanWriter(table, target, limits).Write(pieces, target_digest));
  const absl::Status covered = CheckCoverage(plan, sources, target);
  if (!covered.ok()) {
    // The selection found every element, so this is our own mistake (or a
    // target that manifest::CheckPlacement would have refused).
    return absl::InternalError(
        absl::StrCat("the plan for target rank ", target.rank,
                     " failed its own check: ", covered.message()));
  }
  return plan;
}

}  // namespace weft::plan
