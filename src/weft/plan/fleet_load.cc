#include <algorithm>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "weft/plan/box_set.h"
#include "weft/plan/explain.h"
#include "weft/plan/source_table.h"

namespace weft::plan {
namespace {

using tensor::Box;

// Names of the logical tensors of which a source holds any element.
std::set<std::string_view> NamesHeld(const manifest::Placement& placement) {
  std::set<std::string_view> names;
  for (const layout::StoredTensor& stored : placement.stored) {
    for (const layout::Fragment& fragment : stored.fragments) {
      if (fragment.map.box().empty()) continue;
      names.insert(placement.tensors[fragment.tensor].name);
    }
  }
  return names;
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

}  // namespace

struct FleetMeter::State {
  const SourceTable& table;
  const FleetTopology* topology;
  std::vector<int64_t> bytes;  // by source
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
                       {},
                       {}}) {}

FleetMeter::~FleetMeter() = default;

void FleetMeter::Add(const Plan& plan, const manifest::Placement& target) {
  State& state = *state_;
  // Names are looked up once a tensor, and a fragment counts once, however
  // many sources it comes from: coverage is proven.
  std::vector<const TensorEntry*> entries(target.tensors.size(), nullptr);
  std::vector<std::vector<bool>> counted(target.stored.size());
  for (const PeerPlan& peer : plan.peers) {
    const int32_t source = state.table.SourceOfRank(peer.src_rank);
    if (source < 0) continue;  // a plan of other sources
    state.bytes[static_cast<size_t>(source)] += peer.src_bytes;
    const bool crosses = state.topology != nullptr &&
                         state.topology->trainers[peer.src_rank].node !=
                             state.topology->engines[plan.target_rank].node;
    for (const Move& move : peer.moves) {
      const TensorEntry*& entry = entries[move.tensor];
      if (entry == nullptr) {
        entry = state.table.Find(target.tensors[move.tensor].name);
      }
      const int64_t item_bytes = tensor::ItemBytes(move.conversion.from);
      const layout::StoredTensor& stored = target.stored[move.dst_stored];
      std::vector<bool>& is_counted = counted[move.dst_stored];
      is_counted.resize(stored.fragments.size(), false);
      NeededTensor& needed = state.needed[entry];
      needed.AddItemBytes(item_bytes);
      if (!is_counted[move.dst_fragment]) {
        is_counted[move.dst_fragment] = true;
        needed.Add(stored.fragments[move.dst_fragment].map.box());
      }
      if (!crosses) continue;
      NeededTensor& of_node = state.needed_of_node[{
          state.topology->engines[plan.target_rank].node, entry}];
      of_node.AddItemBytes(item_bytes);
      of_node.Add(move.box);
    }
  }
}

FleetLoad FleetMeter::Finish() const {
  const State& state = *state_;
  FleetLoad load;
  int64_t num_holders = 0;
  int64_t most = 0;
  std::set<std::string_view> held;
  for (size_t i = 0; i < state.bytes.size(); ++i) {
    const manifest::Placement& placement = *state.table.sources()[i].placement;
    load.sources.push_back({placement.rank, state.bytes[i]});
    load.sent_bytes += state.bytes[i];
    most = std::max(most, state.bytes[i]);
    std::set<std::string_view> names = NamesHeld(placement);
    if (!names.empty()) ++num_holders;
    held.merge(names);
  }
  for (const std::string_view name : held) {
    if (!state.needed.contains(state.table.Find(name))) {
      load.unread.emplace_back(name);
    }
  }
  for (const auto& [entry, tensor] : state.needed) {
    load.unique_bytes += tensor.UniqueBytes();
  }
  for (const auto& [key, tensor] : state.needed_of_node) {
    load.once_per_node_bytes += tensor.UniqueBytes();
  }
  if (load.sent_bytes > 0 && num_holders > 0) {
    load.max_over_mean = static_cast<double>(most) *
                         static_cast<double>(num_holders) /
                         static_cast<double>(load.sent_bytes);
  }
  return load;
}

}  // namespace weft::plan
