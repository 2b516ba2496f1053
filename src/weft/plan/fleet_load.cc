#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "weft/plan/box_set.h"
#include "weft/plan/explain.h"
#include "weft/plan/replica_bound.h"
#include "weft/plan/source_table.h"

namespace weft::plan {
namespace {

using tensor::Box;

bool HoldsAnything(const manifest::Placement& placement) {
  for (const layout::StoredTensor& stored : placement.stored) {
    for (const layout::Fragment& fragment : stored.fragments) {
      if (!fragment.map.box().empty()) return true;
    }
  }
  return false;
}

// The distinct boxes that are read of one tensor, by whoever.
class NeededTensor {
 public:
  void Add(const Box& box) {
    std::vector<Box>& alike = boxes_[Key(box)];
    if (std::find(alike.begin(), alike.end(), box) == alike.end()) {
      alike.push_back(box);
    }
  }
  void AddItemBytes(int64_t item_bytes) {
    item_bytes_ =
        item_bytes_ == 0 ? item_bytes : std::min(item_bytes_, item_bytes);
  }
  int64_t UniqueBytes() const {
    std::vector<const Box*> boxes;
    for (const auto& [key, alike] : boxes_) {
      for (const Box& box : alike) boxes.push_back(&box);
    }
    return UnionElements(std::move(boxes)) * item_bytes_;
  }

 private:
  static std::pair<int64_t, int64_t> Key(const Box& box) {
    if (box.rank() == 0) return {0, 0};
    return {box.range(0).begin, box.range(box.rank() - 1).begin};
  }

  absl::flat_hash_map<std::pair<int64_t, int64_t>, std::vector<Box>> boxes_;
  // Replicas may differ in dtype: the distinct elements could all have come
  // from the narrowest.
  int64_t item_bytes_ = 0;
};

// The parts of a series that come to `node` from other nodes: moves that follow
// each other are one box.
void ForEachCrossing(const MoveSeries& series, const FleetTopology& topology,
                     int32_t node, absl::FunctionRef<void(const Box&)> visit) {
  const auto crosses = [&](int64_t move) {
    return topology.trainers[series.RankOf(move)].node != node;
  };
  for (int64_t begin = 0, end = 0; begin < series.num_moves; begin = end) {
    end = begin + 1;
    if (!crosses(begin)) continue;
    while (end < series.num_moves && crosses(end)) ++end;
    visit(end - begin == series.num_moves
              ? series.box
              : series.box.WithRange(
                    series.dim, {series.BoxOf(begin).range(series.dim).begin,
                                 series.BoxOf(end - 1).range(series.dim).end}));
  }
}

}  // namespace

struct FleetMeter::State {
  const SourceTable& table;
  const FleetTopology* topology;
  std::vector<int64_t> bytes;  // by source
  ReplicaBound bound;
  absl::flat_hash_map<const TensorEntry*, NeededTensor> needed;
  // By node of engines: what comes from other nodes.
  absl::flat_hash_map<std::pair<int32_t, const TensorEntry*>, NeededTensor>
      needed_of_node;
};

FleetMeter::FleetMeter(const SourceIndex& sources,
                       const FleetTopology* topology)
    : state_(new State{SourceTable::Of(sources),
                       topology,
                       std::vector<int64_t>(sources.sources().size(), 0),
                       ReplicaBound(SourceTable::Of(sources)),
                       {},
                       {}}) {}

FleetMeter::~FleetMeter() = default;

void FleetMeter::Add(const CompactPlan& plan,
                     const manifest::Placement& target) {
  State& state = *state_;
  for (const PeerTraffic& peer : plan.peers) {
    const int32_t source = state.table.SourceOfRank(peer.src_rank);
    if (source < 0) continue;  // a plan of other sources
    state.bytes[static_cast<size_t>(source)] += peer.src_bytes;
  }
  // Names are looked up once a tensor, and a fragment counts once, however
  // many series it comes in: coverage is proven.
  std::vector<const TensorEntry*> entries(target.tensors.size(), nullptr);
  const MoveSeries* last = nullptr;
  for (const MoveSeries& series : plan.series) {
    const TensorEntry*& entry = entries[series.tensor];
    if (entry == nullptr) {
      entry = state.table.Find(target.tensors[series.tensor].name);
    }
    state.bound.Add(*entry, series);
    const int64_t item_bytes = tensor::ItemBytes(series.conversion.from);
    NeededTensor& needed = state.needed[entry];
    needed.AddItemBytes(item_bytes);
    if (last == nullptr || last->dst_stored != series.dst_stored ||
        last->dst_fragment != series.dst_fragment) {
      needed.Add(target.stored[series.dst_stored]
                     .fragments[series.dst_fragment]
                     .map.box());
    }
    last = &series;
    if (state.topology == nullptr) continue;
    const int32_t node = state.topology->engines[plan.target_rank].node;
    ForEachCrossing(series, *state.topology, node, [&](const Box& box) {
      NeededTensor& of_node = state.needed_of_node[{node, entry}];
      of_node.AddItemBytes(item_bytes);
      of_node.Add(box);
    });
  }
}

FleetLoad FleetMeter::Finish() const {
  const State& state = *state_;
  FleetLoad load;
  int64_t num_holders = 0;
  int64_t most = 0;
  for (size_t i = 0; i < state.bytes.size(); ++i) {
    const manifest::Placement& placement = *state.table.sources()[i].placement;
    load.sources.push_back({placement.rank, state.bytes[i]});
    load.sent_bytes += state.bytes[i];
    most = std::max(most, state.bytes[i]);
    if (HoldsAnything(placement)) ++num_holders;
  }
  for (const TensorEntry& entry : state.table.entries()) {
    if (entry.num_groups > 0 && !state.needed.contains(&entry)) {
      load.unread.push_back(entry.spec->name);
    }
  }
  std::sort(load.unread.begin(), load.unread.end());
  for (const auto& [entry, tensor] : state.needed) {
    load.unique_bytes += tensor.UniqueBytes();
  }
  for (const auto& [key, tensor] : state.needed_of_node) {
    load.once_per_node_bytes += tensor.UniqueBytes();
  }
  if (load.sent_bytes > 0 && num_holders > 0) {
    const double mean =
        static_cast<double>(load.sent_bytes) / static_cast<double>(num_holders);
    load.max_over_mean = static_cast<double>(most) / mean;
    load.least_max_over_mean =
        std::max(1.0, static_cast<double>(state.bound.LeastBytes()) / mean);
  }
  return load;
}

}  // namespace weft::plan
