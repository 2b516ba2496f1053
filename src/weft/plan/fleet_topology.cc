#include "weft/plan/fleet_topology.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::plan {

absl::Status FleetTopology::Check() const {
  base::FaultList faults;
  const auto above_zero = [&faults](const std::string& what, double value) {
    if (!(value > 0)) {
      faults.Add(absl::StrCat(what, " is ", value, ", it must be above 0"));
    }
  };
  const auto not_negative = [&faults](const char* what, double value) {
    if (!(value >= 0)) {
      faults.Add(absl::StrCat(what, " is ", value, ", it must not be below 0"));
    }
  };
  for (const FleetNode& node : nodes) {
    const std::string of = absl::StrCat(" of node \"", node.name, "\"");
    above_zero(absl::StrCat("count of GPUs", of),
               static_cast<double>(node.num_gpus));
    above_zero(absl::StrCat("count of NICs", of),
               static_cast<double>(node.num_nics));
    above_zero(absl::StrCat("bytes per second of a NIC", of),
               node.nic_bytes_per_second);
    above_zero(absl::StrCat("bytes per second of NVLink", of),
               node.nvlink_bytes_per_second);
  }
  not_negative("latency in seconds", latency_seconds);
  not_negative("bytes per second of the spine", spine_bytes_per_second);
  const auto check_places = [&](const char* side,
                                const std::vector<Place>& places) {
    for (size_t rank = 0; rank < places.size(); ++rank) {
      const Place& place = places[rank];
      if (place.node < 0 || place.node >= static_cast<int32_t>(nodes.size())) {
        faults.Add(absl::StrCat(side, " rank ", rank, " is on node ",
                                place.node, " of ", nodes.size()));
      } else if (place.gpu < 0 || place.gpu >= nodes[place.node].num_gpus) {
        faults.Add(absl::StrCat(side, " rank ", rank, " is on GPU ", place.gpu,
                                " of the ", nodes[place.node].num_gpus,
                                " of node \"", nodes[place.node].name, "\""));
      }
    }
  };
  check_places("trainer", trainers);
  check_places("engine", engines);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

FleetTopology PlaceInOrder(const UniformFleet& fleet, int64_t num_trainers,
                           int64_t num_engines) {
  const int64_t gpus = fleet.gpus_per_node;
  FleetTopology topology;
  topology.latency_seconds = fleet.latency_seconds;
  // Places each rank, from node `first` on, and names new nodes.
  const auto place = [&](const char* side, int64_t num_ranks, int64_t first,
                         std::vector<FleetTopology::Place>& places) {
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      places.push_back({static_cast<int32_t>(first + rank / gpus),
                        static_cast<int32_t>(rank % gpus)});
    }
    const int64_t nodes = base::CeilDiv(num_ranks, gpus);
    while (static_cast<int64_t>(topology.nodes.size()) < first + nodes) {
      const auto number = static_cast<int64_t>(topology.nodes.size()) - first;
      topology.nodes.push_back(
          {.name = absl::StrCat(side, " node ", number),
           .num_gpus = gpus,
           .num_nics = gpus,
           .nic_bytes_per_second = fleet.nic_bytes_per_second,
           .nvlink_bytes_per_second = fleet.nvlink_bytes_per_second});
    }
  };
  place(fleet.colocated ? "shared" : "trainer", num_trainers, 0,
        topology.trainers);
  place(fleet.colocated ? "shared" : "engine", num_engines,
        fleet.colocated ? 0 : static_cast<int64_t>(topology.nodes.size()),
        topology.engines);
  return topology;
}

}  // namespace weft::plan
