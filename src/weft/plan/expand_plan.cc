#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/plan/box_set.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/count_plan.h"
#include "weft/plan/count_series.h"
#include "weft/plan/move_runs.h"
#include "weft/plan/source_table.h"
#include "weft/tensor/tile_grid.h"

namespace weft::plan {
namespace {

using layout::IndexMap;
using layout::Run;
using tensor::Box;

// Turns series into moves with runs and witnesses.
class PlanWriter {
 public:
  PlanWriter(const SourceTable& sources, const manifest::Placement& target,
             const PlanLimits& limits)
      : sources_(sources),
        target_(target),
        limits_(limits),
        peers_(sources.sources().size()),
        runs_left_(limits.max_runs) {}

  // The peers that have moves.
  absl::StatusOr<std::vector<PeerPlan>> Write(
      absl::Span<const MoveSeries> series);

 private:
  // Those into one fragment, by box.
  absl::Status AddFragment(absl::Span<const MoveSeries> series);
  absl::Status AddMove(const MoveSeries& series, int64_t index);
  absl::Status AddWitnesses(const Move& move, const IndexMap& src,
                            int32_t index, PeerPlan& peer);
  absl::Status Annotated(const absl::Status& status, const Move& move) const;

  const SourceTable& sources_;
  const manifest::Placement& target_;
  const PlanLimits& limits_;
  std::vector<PeerPlan> peers_;  // by source
  int64_t runs_left_;
};

absl::StatusOr<std::vector<PeerPlan>> PlanWriter::Write(
    absl::Span<const MoveSeries> series) {
  for (size_t i = 0; i < peers_.size(); ++i) {
    peers_[i].src_rank = sources_.sources()[i].placement->rank;
  }
  for (size_t begin = 0, end = 0; begin < series.size(); begin = end) {
    while (end < series.size() &&
           series[end].dst_stored == series[begin].dst_stored &&
           series[end].dst_fragment == series[begin].dst_fragment) {
      ++end;
    }
    WEFT_RETURN_IF_ERROR(AddFragment(series.subspan(begin, end - begin)));
  }
  std::erase_if(peers_,
                [](const PeerPlan& peer) { return peer.moves.empty(); });
  return std::move(peers_);
}

absl::Status PlanWriter::AddFragment(absl::Span<const MoveSeries> series) {
  if (series.size() == 1) {
    for (int64_t i = 0; i < series[0].num_moves; ++i) {
      WEFT_RETURN_IF_ERROR(AddMove(series[0], i));
    }
    return absl::OkStatus();
  }
  // Moves of one series may lie between those of another.
  struct Ref {
    const MoveSeries* series = nullptr;
    int64_t index = 0;
    Box box;
  };
  std::vector<Ref> moves;
  for (const MoveSeries& each : series) {
    for (int64_t i = 0; i < each.num_moves; ++i) {
      moves.push_back({&each, i, each.BoxOf(i)});
    }
  }
  std::sort(moves.begin(), moves.end(),
            [](const Ref& a, const Ref& b) { return LessBox(a.box, b.box); });
  for (const Ref& move : moves) {
    WEFT_RETURN_IF_ERROR(AddMove(*move.series, move.index));
  }
  return absl::OkStatus();
}

absl::Status PlanWriter::AddMove(const MoveSeries& series, int64_t index) {
  const int32_t source = sources_.SourceOfRank(series.RankOf(index));
  const IndexMap& src = sources_.sources()[source]
                            .placement->stored[series.src_stored]
                            .fragments[series.src_fragment]
                            .map;
  const IndexMap& dst =
      target_.stored[series.dst_stored].fragments[series.dst_fragment].map;
  PeerPlan& peer = peers_[source];
  Move& move = peer.moves.emplace_back();
  move.tensor = series.tensor;
  move.src_stored = series.src_stored;
  move.src_fragment = series.src_fragment;
  move.dst_stored = series.dst_stored;
  move.dst_fragment = series.dst_fragment;
  move.box = series.BoxOf(index);
  move.conversion = series.conversion;
  absl::StatusOr<std::vector<Run>> runs =
      RunsOfBox(src, dst, move.box, runs_left_);
  if (!runs.ok()) return Annotated(runs.status(), move);
  move.runs = *std::move(runs);
  runs_left_ -= static_cast<int64_t>(move.runs.size());
  return AddWitnesses(move, src, static_cast<int32_t>(peer.moves.size() - 1),
                      peer);
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

absl::Status PlanWriter::Annotated(const absl::Status& status,
                                   const Move& move) const {
  return base::Annotate(
      status,
      absl::StrCat("moving ", move.box.ToString(), " of \"",
                   target_.tensors[move.tensor].name, "\" to target rank ",
                   target_.rank, " within ", limits_.max_runs, " runs a plan"));
}

}  // namespace

absl::StatusOr<Plan> ExpandPlan(const CompactPlan& plan,
                                const SourceIndex& sources,
                                const manifest::Placement& target,
                                const PlanLimits& limits) {
  Plan expanded;
  expanded.source_digest = plan.source_digest;
  expanded.target_digest = plan.target_digest;
  expanded.target_rank = plan.target_rank;
  expanded.zero_fills = plan.zero_fills;
  expanded.totals.zero_fill_bytes = plan.totals.zero_fill_bytes;
  WEFT_ASSIGN_OR_RETURN(
      expanded.peers,
      PlanWriter(SourceTable::Of(sources), target, limits).Write(plan.series));
  WEFT_RETURN_IF_ERROR(CountPlan(expanded, limits.staging_bytes));
  if (!(expanded.totals == plan.totals)) {
    return absl::InternalError(absl::StrCat(
        "the plan for target rank ", plan.target_rank, " counts ",
        plan.totals.moves, " moves, ", plan.totals.runs, " runs and ",
        plan.totals.src_bytes, " bytes in its series but has ",
        expanded.totals.moves, ", ", expanded.totals.runs, " and ",
        expanded.totals.src_bytes));
  }
  expanded.conversions = plan.conversions;
  return expanded;
}

absl::StatusOr<std::vector<PeerPlan>> ExpandSeries(
    absl::Span<const MoveSeries> series, const SourceIndex& sources,
    const manifest::Placement& target, const PlanLimits& limits) {
  return PlanWriter(SourceTable::Of(sources), target, limits).Write(series);
}

absl::StatusOr<Plan> BuildPlan(const SourceIndex& sources,
                               const manifest::Placement& target,
                               const manifest::LayoutDigest& target_digest,
                               const PlanLimits& limits) {
  WEFT_ASSIGN_OR_RETURN(
      const CompactPlan compact,
      BuildCompactPlan(sources, target, target_digest, limits));
  WEFT_ASSIGN_OR_RETURN(Plan plan,
                        ExpandPlan(compact, sources, target, limits));
  const absl::Status covered = CheckCoverage(plan, sources, target);
  if (!covered.ok()) {
    return absl::InternalError(
        absl::StrCat("the plan for target rank ", target.rank,
                     " failed its own check: ", covered.message()));
  }
  return plan;
}

}  // namespace weft::plan
