// Where the ranks of a refit live: nodes, their GPUs, NICs and links.
#ifndef WEFT_PLAN_FLEET_TOPOLOGY_H_
#define WEFT_PLAN_FLEET_TOPOLOGY_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace weft::plan {

struct FleetNode {
  std::string name;
  int64_t num_gpus = 8;
  // Shared by the GPUs in equal parts: with fewer NICs than GPUs, neighbours
  // share one; with more, a GPU drives several as if they were one.
  int64_t num_nics = 8;
  double nic_bytes_per_second = 50e9;      // of a NIC, each way
  double nvlink_bytes_per_second = 450e9;  // of a GPU, each way

  // NICs as far as transfers can tell them apart, and the rate of each.
  int64_t num_ports() const { return std::min(num_gpus, num_nics); }
  double port_bytes_per_second() const {
    return nic_bytes_per_second * static_cast<double>(num_nics) /
           static_cast<double>(num_ports());
  }
  // Of a GPU.
  int64_t port_of(int64_t gpu) const { return gpu * num_ports() / num_gpus; }
};

struct FleetTopology {
  struct Place {
    int32_t node = 0;  // into `nodes`
    int32_t gpu = 0;
  };
  std::vector<FleetNode> nodes;
  std::vector<Place> trainers;  // by rank
  std::vector<Place> engines;
  double latency_seconds = 5e-6;  // of an operation
  // NIC i of every node is on switch i; between two of these a transfer goes
  // through the spine.
  bool rails = false;
  // All that the spine carries at once, each way; 0 = never the limit.
  double spine_bytes_per_second = 0;

  // All faults at once, kInvalidArgument: sizes and rates that are not above
  // zero, places that do not exist.
  absl::Status Check() const;
};

// The simple form: equal nodes, a NIC a GPU, ranks in order.
struct UniformFleet {
  int64_t gpus_per_node = 8;
  double nic_bytes_per_second = 50e9;
  double nvlink_bytes_per_second = 450e9;
  double latency_seconds = 5e-6;
  // Trainer rank r and engine rank r live on the same node (r / gpus_per_node);
  // else the nodes of the engines come after those of the trainer.
  bool colocated = false;
};
// `fleet` needs gpus_per_node > 0; the rest is Check's.
FleetTopology PlaceInOrder(const UniformFleet& fleet, int64_t num_trainers,
                           int64_t num_engines);

}  // namespace weft::plan

#endif  // WEFT_PLAN_FLEET_TOPOLOGY_H_
