#include "weft/plan/fleet_topology.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::plan {
namespace {

// Beyond these a figure is a mistake, and times come out that nobody can read.
constexpr double kLeastRate = 1;
constexpr double kMostRate = 1e18;
constexpr double kMostLatency = 1e6;

}  // namespace

absl::Status FleetTopology::Check() const {
  base::FaultList faults;
  const auto above_zero = [&faults](const std::string& what, int64_t value) {
    if (value > 0) return;
    faults.Add(absl::StrCat(what, " is ", value, ", it must be above 0"));
  };
  // Not a number is outside of every range.
  const auto within = [&faults](const std::string& what, double value,
                                double least, double most) {
    if (value >= least && value <= most) return;
    faults.Add(absl::StrCat(what, " is ", value, ", it must be from ", least,
                            " to ", most));
  };
  for (const FleetNode& node : nodes) {
    const std::string of = absl::StrCat(" of node \"", node.name, "\"");
    above_zero(absl::StrCat("count of GPUs", of), node.num_gpus);
    above_zero(absl::StrCat("count of NICs", of), node.num_nics);
    within(absl::StrCat("bytes per second of a NIC", of),
           node.nic_bytes_per_second, kLeastRate, kMostRate);
    within(absl::StrCat("bytes per second of NVLink", of),
           node.nvlink_bytes_per_second, kLeastRate, kMostRate);
  }
  within("latency in seconds", latency_seconds, 0, kMostLatency);
  within("bytes per second of the spine", spine_bytes_per_second, 0, kMostRate);
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
