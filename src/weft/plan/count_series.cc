#include "weft/plan/count_series.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/plan/move_runs.h"
#include "weft/plan/run_proof.h"
#include "weft/tensor/tile_grid.h"

namespace weft::plan {
namespace {

using layout::IndexMap;
using layout::Run;
using tensor::Box;
using tensor::Range;

std::vector<ConversionUse> ListConversions(
    const std::vector<MoveSeries>& series) {
  // Sorted, since the series of one tensor need not be neighbours.
  using Key = std::tuple<tensor::DType, tensor::DType, tensor::Transform>;
  std::vector<std::pair<Key, const MoveSeries*>> sorted;
  for (const MoveSeries& each : series) {
    const tensor::Conversion& conversion = each.conversion;
    if (conversion.identity()) continue;
    sorted.push_back(
        {{conversion.from, conversion.to, conversion.transform}, &each});
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.first, a.second->tensor) <
           std::make_pair(b.first, b.second->tensor);
  });
  std::vector<ConversionUse> uses;
  int32_t last_tensor = -1;
  for (const auto& [key, each] : sorted) {
    if (uses.empty() || !(uses.back().conversion == each->conversion)) {
      uses.push_back({each->conversion, tensor::IsLossy(each->conversion)});
      last_tensor = -1;
    }
    if (each->tensor != last_tensor) ++uses.back().num_tensors;
    last_tensor = each->tensor;
    uses.back().num_elements += each->box.num_elements();
  }
  return uses;
}

class Counter {
 public:
  Counter(const SourceTable& sources, const manifest::Placement& target,
          const PlanLimits& limits)
      : sources_(sources),
        target_(target),
        limits_(limits),
        shapes_(limits.max_runs),
        traffic_(sources.sources().size()) {}

  absl::StatusOr<SeriesCounts> Count(const std::vector<MoveSeries>& series);

 private:
  absl::Status AddSeries(const MoveSeries& series);
  absl::Status AddAlike(const MoveSeries& series, const MoveShape& shape,
                        int64_t count);
  absl::Status TooMuch(const MoveSeries& series,
                       const absl::Status& status) const;

  const SourceTable& sources_;
  const manifest::Placement& target_;
  const PlanLimits& limits_;
  MoveShapes shapes_;
  std::vector<PeerTraffic> traffic_;  // by source
  PlanTotals totals_;
  int64_t all_runs_ = 0;  // the witnesses' too
  int64_t short_run_bytes_ = 0;
  base::FaultList faults_;
};

absl::Status Counter::TooMuch(const MoveSeries& series,
                              const absl::Status& status) const {
  return base::Annotate(
      status,
      absl::StrCat("moving ", series.box.ToString(), " of \"",
                   target_.tensors[series.tensor].name, "\" to target rank ",
                   target_.rank, " within ", limits_.max_runs, " runs a plan"));
}

absl::Status Counter::AddAlike(const MoveSeries& series, const MoveShape& shape,
                               int64_t count) {
  // Neither product overflows: a move has no more runs or bytes than elements
  // of its source, and those were counted when the source was indexed.
  const auto runs = base::CheckedMul(shape.runs + shape.witness_runs, count);
  const auto all_runs =
      runs ? base::CheckedAdd(all_runs_, *runs) : std::nullopt;
  if (!all_runs || *all_runs > limits_.max_runs) {
    return TooMuch(series, absl::ResourceExhaustedError(
                               "that needs more runs; raise the limit"));
  }
  const auto scratch = base::CheckedMul(shape.scratch_bytes, count);
  const auto all_scratch =
      scratch ? base::CheckedAdd(totals_.scratch_bytes, *scratch)
              : std::nullopt;
  if (!all_scratch) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the witnesses of the plan for target rank ", target_.rank,
                     " need more scratch than 64 bits can count"));
  }
  all_runs_ = *all_runs;
  totals_.scratch_bytes = *all_scratch;
  totals_.moves += count;
  totals_.runs += count * shape.runs;
  totals_.witness_bytes += count * shape.witness_bytes;
  short_run_bytes_ += count * shape.short_run_bytes;
  if (totals_.shortest_run_bytes == 0 ||
      shape.shortest_run_bytes < totals_.shortest_run_bytes) {
    totals_.shortest_run_bytes = shape.shortest_run_bytes;
  }
  totals_.longest_run_bytes =
      std::max(totals_.longest_run_bytes, shape.longest_run_bytes);
  return absl::OkStatus();
}

absl::Status Counter::AddSeries(const MoveSeries& series) {
  const IndexMap& dst =
      target_.stored[series.dst_stored].fragments[series.dst_fragment].map;
  const int64_t from = tensor::ItemBytes(series.conversion.from);
  const int64_t to = tensor::ItemBytes(series.conversion.to);
  const int32_t source = sources_.SourceOfRank(series.src_rank);
  const int32_t step = series.num_moves == 1
                           ? 0
                           : sources_.SourceOfRank(series.RankOf(1)) - source;
  for (const AlikeMoves& alike : ListAlike(series, dst)) {
    const auto index = static_cast<int32_t>(source + alike.first * step);
    const IndexMap& src = sources_.sources()[index]
                              .placement->stored[series.src_stored]
                              .fragments[series.src_fragment]
                              .map;
    const absl::StatusOr<const MoveShape*> made =
        shapes_.Of(src, dst, series.BoxOf(alike.first), from);
    if (!made.ok()) return TooMuch(series, made.status());
    const MoveShape& shape = **made;
    if (shape.fault.has_value()) {
      faults_.Add(absl::StrCat("move ", series.BoxOf(alike.first).ToString(),
                               " of \"", target_.tensors[series.tensor].name,
                               "\": ", *shape.fault));
    }
    WEFT_RETURN_IF_ERROR(AddAlike(series, shape, alike.count));
    const int64_t elements = series.ElementsOf(alike.first);
    for (int64_t i = 0; i < alike.count; ++i) {
      PeerTraffic& traffic = traffic_[static_cast<size_t>(index + i * step)];
      ++traffic.moves;
      traffic.src_bytes += elements * from;
      traffic.dst_bytes += elements * to;
      traffic.witness_bytes += shape.witness_bytes;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SeriesCounts> Counter::Count(
    const std::vector<MoveSeries>& series) {
  for (const MoveSeries& each : series) {
    WEFT_RETURN_IF_ERROR(AddSeries(each));
  }
  WEFT_RETURN_IF_ERROR(faults_.ToStatus(absl::StatusCode::kInternal));
  SeriesCounts counts;
  for (size_t i = 0; i < traffic_.size(); ++i) {
    if (traffic_[i].moves == 0) continue;
    traffic_[i].src_rank = sources_.sources()[i].placement->rank;
    totals_.src_bytes += traffic_[i].src_bytes;
    totals_.dst_bytes += traffic_[i].dst_bytes;
    counts.peers.push_back(traffic_[i]);
  }
  totals_.peak_staging_bytes =
      std::min(limits_.staging_bytes, short_run_bytes_);
  counts.totals = totals_;
  counts.conversions = ListConversions(series);
  return counts;
}

}  // namespace

bool IsWholeTiles(const Box& box, const Box& clip) {
  const tensor::Shape tile = tensor::TileShape(box.rank());
  for (int dim = 0; dim < box.rank(); ++dim) {
    if (tile[dim] == 1) continue;
    const Range& range = box.range(dim);
    if ((range.begin % tile[dim] != 0 &&
         range.begin != clip.range(dim).begin) ||
        (range.end % tile[dim] != 0 && range.end != clip.range(dim).end)) {
      return false;
    }
  }
  return true;
}

absl::InlinedVector<AlikeMoves, 4> ListAlike(const MoveSeries& series,
                                             const IndexMap& dst) {
  const int64_t last = series.num_moves - 1;
  absl::InlinedVector<AlikeMoves, 4> all;
  const auto add = [&all](int64_t first, int64_t count) {
    if (count > 0) all.push_back({first, count});
  };
  if (last == 0) {
    add(0, 1);
  } else if (dst.modes(series.dim).size() > 1) {
    // Nested there: where a move cuts through the digits is its own.
    for (int64_t i = 0; i <= last; ++i) add(i, 1);
  } else {
    // Shards that are moved whole along `dim` are alike, and so is the way of
    // each into a destination that is linear there.
    const int64_t rest =
        series.box.extent(series.dim) - series.head - (last - 1) * series.chunk;
    const bool whole_head = series.head == series.chunk;
    const bool whole_rest = rest == series.chunk;
    if (!whole_head) add(0, 1);
    add(whole_head ? 0 : 1,
        last - 1 + (whole_head ? 1 : 0) + (whole_rest ? 1 : 0));
    if (!whole_rest) add(last, 1);
  }
  return all;
}

absl::StatusOr<const MoveShape*> MoveShapes::Of(const IndexMap& src,
                                                const IndexMap& dst,
                                                const Box& box,
                                                int64_t item_bytes) {
  Key key{&src, &dst, box, item_bytes};
  const auto found = known_.find(key);
  if (found != known_.end()) return found->second;
  WEFT_ASSIGN_OR_RETURN(MoveShape made, Make(key));
  shapes_.push_back(std::move(made));
  known_.emplace(std::move(key), &shapes_.back());
  return &shapes_.back();
}

absl::StatusOr<MoveShape> MoveShapes::Make(const Key& key) const {
  MoveShape shape;
  WEFT_ASSIGN_OR_RETURN(const std::vector<Run> runs,
                        RunsOfBox(*key.src, *key.dst, key.box, max_runs_));
  shape.fault = FindRunFault(*key.src, *key.dst, key.box, runs);
  shape.runs = static_cast<int64_t>(runs.size());
  for (const Run& run : runs) {
    const int64_t bytes = run.contiguous_elements() * key.item_bytes;
    if (shape.shortest_run_bytes == 0 || bytes < shape.shortest_run_bytes) {
      shape.shortest_run_bytes = bytes;
    }
    shape.longest_run_bytes = std::max(shape.longest_run_bytes, bytes);
    if (bytes < kDirectRunBytes) {
      shape.short_run_bytes += run.num_elements() * key.item_bytes;
    }
  }
  const Box& held = key.src->box();
  if (IsWholeTiles(key.box, held)) return shape;
  for (const Box& box :
       tensor::Subtract(tensor::TileCover(key.box, held), key.box)) {
    WEFT_ASSIGN_OR_RETURN(const IndexMap scratch, ScratchMap(box));
    WEFT_ASSIGN_OR_RETURN(const std::vector<Run> more,
                          RunsOfBox(*key.src, scratch, box, max_runs_));
    if (!shape.fault.has_value()) {
      shape.fault = FindRunFault(*key.src, scratch, box, more);
    }
    const int64_t bytes = box.num_elements() * key.item_bytes;
    shape.witness_runs += static_cast<int64_t>(more.size());
    shape.witness_bytes += bytes;
    shape.scratch_bytes += base::AlignUp(bytes, kScratchAlignBytes);
  }
  return shape;
}

absl::StatusOr<SeriesCounts> CountSeries(const std::vector<MoveSeries>& series,
                                         const SourceTable& sources,
                                         const manifest::Placement& target,
                                         const PlanLimits& limits) {
  return Counter(sources, target, limits).Count(series);
}

}  // namespace weft::plan
