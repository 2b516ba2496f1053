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

struct NeededTensor {
  std::vector<const Box*> boxes;
  // Replicas may differ in dtype: the distinct elements could all have come
  // from the narrowest.
  int64_t item_bytes = 0;
};

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
  // Plans count tensors by their target; the sources' entry is common to all.
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
        const layout::Fragment& fragment =
            placement.stored[move.src_stored].fragments[move.src_fragment];
        NeededTensor& tensor =
            needed[table.Find(placement.tensors[fragment.tensor].name)];
        const int64_t item_bytes = tensor::ItemBytes(move.conversion.from);
        tensor.boxes.push_back(&move.box);
        tensor.item_bytes = tensor.item_bytes == 0
                                ? item_bytes
                                : std::min(tensor.item_bytes, item_bytes);
      }
    }
  }
  for (const std::string_view name : held) {
    if (!needed.contains(table.Find(name))) load.unread.emplace_back(name);
  }
  for (auto& [entry, tensor] : needed) {
    load.unique_bytes +=
        UnionElements(std::move(tensor.boxes)) * tensor.item_bytes;
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

}  // namespace weft::plan
