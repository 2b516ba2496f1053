#include <algorithm>
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

// What is read of one tensor, by whoever.
class NeededTensor {
 public:
  void Add(const Move& move) {
    const int64_t item_bytes = tensor::ItemBytes(move.conversion.from);
    boxes_.push_back(&move.box);
    item_bytes_ =
        item_bytes_ == 0 ? item_bytes : std::min(item_bytes_, item_bytes);
  }
  int64_t UniqueBytes() const { return UnionElements(boxes_) * item_bytes_; }

 private:
  std::vector<const Box*> boxes_;
  // Replicas may differ in dtype: the distinct elements could all have come
  // from the narrowest.
  int64_t item_bytes_ = 0;
};

// Plans count tensors by their target; the sources' entry is common to all.
const TensorEntry* EntryOf(const SourceTable& table,
                           const manifest::Placement& source,
                           const Move& move) {
  const layout::Fragment& fragment =
      source.stored[move.src_stored].fragments[move.src_fragment];
  return table.Find(source.tensors[fragment.tensor].name);
}

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

}  // namespace

FleetLoad MeasureFleetLoad(const std::vector<Plan>& plans,
                           const SourceIndex& sources) {
  const SourceTable& table = SourceTable::Of(sources);
  FleetLoad load;
  int64_t num_holders = 0;
  std::set<std::string_view> held;
  for (const SourceInfo& source : sources.sources()) {
    load.sources.push_back({source.placement->rank, 0});
    std::set<std::string_view> names = NamesHeld(*source.placement);
    if (!names.empty()) ++num_holders;
    held.merge(names);
  }
  absl::flat_hash_map<const TensorEntry*, NeededTensor> needed;
  for (const Plan& plan : plans) {
    for (const PeerPlan& peer : plan.peers) {
      const int32_t source = table.SourceOfRank(peer.src_rank);
      if (source < 0) continue;  // a plan of other sources
      const manifest::Placement& placement =
          *sources.sources()[source].placement;
      load.sources[source].bytes += peer.src_bytes;
      load.sent_bytes += peer.src_bytes;
      for (const Move& move : peer.moves) {
        needed[EntryOf(table, placement, move)].Add(move);
      }
    }
  }
  for (const std::string_view name : held) {
    if (!needed.contains(table.Find(name))) load.unread.emplace_back(name);
  }
  for (const auto& [entry, tensor] : needed) {
    load.unique_bytes += tensor.UniqueBytes();
  }
  int64_t most = 0;
  for (const FleetLoad::Source& source : load.sources) {
    most = std::max(most, source.bytes);
  }
  if (load.sent_bytes > 0 && num_holders > 0) {
    load.max_over_mean = static_cast<double>(most) *
                         static_cast<double>(num_holders) /
                         static_cast<double>(load.sent_bytes);
  }
  return load;
}

int64_t BytesOncePerNode(const std::vector<Plan>& plans,
                         const SourceIndex& sources,
                         const FleetTopology& topology) {
  const SourceTable& table = SourceTable::Of(sources);
  absl::flat_hash_map<std::pair<int32_t, const TensorEntry*>, NeededTensor>
      needed;
  for (const Plan& plan : plans) {
    const int32_t node = topology.engines[plan.target_rank].node;
    for (const PeerPlan& peer : plan.peers) {
      const int32_t source = table.SourceOfRank(peer.src_rank);
      if (source < 0 || topology.trainers[peer.src_rank].node == node) continue;
      const manifest::Placement& placement =
          *sources.sources()[source].placement;
      for (const Move& move : peer.moves) {
        needed[{node, EntryOf(table, placement, move)}].Add(move);
      }
    }
  }
  int64_t bytes = 0;
  for (const auto& [key, tensor] : needed) bytes += tensor.UniqueBytes();
  return bytes;
}

}  // namespace weft::plan
