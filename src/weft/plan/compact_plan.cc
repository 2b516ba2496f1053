#include "weft/plan/compact_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/plan/check_series.h"
#include "weft/plan/count_series.h"
#include "weft/plan/select_pieces.h"
#include "weft/plan/source_table.h"

namespace weft::plan {
namespace {

using tensor::Box;

constexpr int64_t kMinStagingBytes = 4096;

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

void AddZeroFills(const manifest::Placement& target, CompactPlan& plan) {
  for (size_t i = 0; i < target.stored.size(); ++i) {
    const layout::StoredTensor& stored = target.stored[i];
    for (const Box& box : stored.zero_fill) {
      if (box.empty()) continue;
      plan.zero_fills.push_back({static_cast<int32_t>(i), box});
    }
  }
}

// Where a move of a series begins and ends along its `dim`.
tensor::Range RangeOf(const MoveSeries& series, int64_t move) {
  const tensor::Range& all = series.box.range(series.dim);
  const int64_t second = all.begin + series.head;
  return {move == 0 ? all.begin : second + (move - 1) * series.chunk,
          std::min(all.end, second + move * series.chunk)};
}

}  // namespace

Box MoveSeries::BoxOf(int64_t move) const {
  return num_moves == 1 ? box : box.WithRange(dim, RangeOf(*this, move));
}

int64_t MoveSeries::ElementsOf(int64_t move) const {
  if (num_moves == 1) return box.num_elements();
  return box.num_elements() / box.extent(dim) * RangeOf(*this, move).extent();
}

absl::StatusOr<CompactPlan> BuildCompactPlan(
    const SourceIndex& sources, const manifest::Placement& target,
    const manifest::LayoutDigest& target_digest, const PlanLimits& limits) {
  const SourceTable& table = SourceTable::Of(sources);
  WEFT_RETURN_IF_ERROR(CheckLimits(limits));
  WEFT_RETURN_IF_ERROR(CheckSize(target));
  CompactPlan plan;
  plan.source_digest = sources.digest();
  plan.target_digest = target_digest;
  plan.target_rank = target.rank;
  WEFT_ASSIGN_OR_RETURN(plan.series, PieceSelector(table, target).Select());
  AddZeroFills(target, plan);
  const absl::Status sound = CheckSeries(plan, table, target);
  if (!sound.ok()) {
    // The selection found every element, so this is our own mistake (or a
    // target that manifest::CheckPlacement would have refused).
    return absl::InternalError(
        absl::StrCat("the plan for target rank ", target.rank,
                     " failed its own check: ", sound.message()));
  }
  WEFT_ASSIGN_OR_RETURN(SeriesCounts counts,
                        CountSeries(plan.series, table, target, limits));
  plan.peers = std::move(counts.peers);
  plan.conversions = std::move(counts.conversions);
  plan.totals = counts.totals;
  plan.totals.zero_fill_bytes = ZeroFillBytes(plan.zero_fills, target);
  return plan;
}

absl::Status CheckCompactPlan(const CompactPlan& plan,
                              const SourceIndex& sources,
                              const manifest::Placement& target,
                              const PlanLimits& limits) {
  const SourceTable& table = SourceTable::Of(sources);
  WEFT_RETURN_IF_ERROR(CheckSize(target));
  WEFT_RETURN_IF_ERROR(CheckSeries(plan, table, target));
  absl::StatusOr<SeriesCounts> counts =
      CountSeries(plan.series, table, target, limits);
  if (!counts.ok()) {
    return absl::FailedPreconditionError(counts.status().message());
  }
  counts->totals.zero_fill_bytes = ZeroFillBytes(plan.zero_fills, target);
  base::FaultList faults;
  if (!(plan.totals == counts->totals)) {
    faults.Add(absl::StrCat(
        "the totals of the plan for target rank ", target.rank, ", among them ",
        plan.totals.moves, " moves and ", plan.totals.src_bytes,
        " bytes, are not those of its series, which are ", counts->totals.moves,
        " moves and ", counts->totals.src_bytes, " bytes"));
  }
  if (plan.peers != counts->peers) {
    faults.Add(
        absl::StrCat("what source ranks send by the plan for target "
                     "rank ",
                     target.rank, " is not what its series send"));
  }
  // What receivers quantise afterwards is listed after the moves' conversions.
  if (plan.conversions.size() < counts->conversions.size() ||
      !std::equal(counts->conversions.begin(), counts->conversions.end(),
                  plan.conversions.begin())) {
    faults.Add(absl::StrCat("the plan for target rank ", target.rank, " lists ",
                            plan.conversions.size(),
                            " conversions that are not those of its series"));
  }
  return faults.ToStatus(absl::StatusCode::kFailedPrecondition);
}

}  // namespace weft::plan
