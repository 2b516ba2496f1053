// What `weft plan` says of all ranks of a fleet together.
#ifndef WEFT_APPS_FLEET_REPORT_H_
#define WEFT_APPS_FLEET_REPORT_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "plan_job.h"
#include "weft/plan/explain.h"
#include "weft/plan/fleet_topology.h"
#include "weft/plan/simulate_refit.h"

namespace weft::apps {

// As given on the command line; a GB is 1e9 bytes.
struct FleetArgs {
  bool simulate = false;      // --gpus-per-node or --topology was given
  std::string topology_path;  // empty = equal nodes, as follows
  double nic_gigabytes_per_second = 50;
  double nvlink_gigabytes_per_second = 450;
  double latency_microseconds = 5;
  plan::UniformFleet uniform;
  plan::SimulationOptions simulation;
  std::string trace_path;  // empty = none
  std::string html_path;   // empty = none
};

struct FleetResult {
  std::vector<plan::CompactPlan> plans;  // of all engine ranks
  double planning_seconds_max = 0;
  plan::FleetLoad load;
  // Tensors of the checkpoint of which no engine rank holds anything.
  std::vector<std::string> unused;
  // Once simulated.
  std::optional<plan::RefitSimulation> simulation;
  plan::FleetTopology topology;
  double gather_seconds = 0;  // what a trainer that gathers first pays beside
  // The bound of receiving FleetLoad::once_per_node_bytes.
  double once_per_node_seconds = 0;
};

// "0-3,7".
std::string RanksText(const std::set<int64_t>& ranks);

// Plans all engine ranks. `args`: whose topology counts, if it is to be
// simulated; nullptr if it is not.
absl::StatusOr<FleetResult> PlanFleet(const PlanJob& job,
                                      const FleetArgs* args);

// Sets what FleetResult has once simulated, and writes the trace.
absl::Status SimulateFleet(const FleetArgs& args, FleetResult& result);

std::string FormatFleet(const PlanJob& job, const FleetResult& result);
// One JSON object.
absl::StatusOr<std::string> FleetJson(const PlanJob& job,
                                      const FleetResult& result);

}  // namespace weft::apps

#endif  // WEFT_APPS_FLEET_REPORT_H_
