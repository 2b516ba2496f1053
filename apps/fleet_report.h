// What `weft plan` says of all ranks of a fleet together.
#ifndef WEFT_APPS_FLEET_REPORT_H_
#define WEFT_APPS_FLEET_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "plan_job.h"
#include "weft/plan/simulate_refit.h"

namespace weft::apps {

// As given on the command line; a GB is 1e9 bytes.
struct FleetArgs {
  bool simulate = false;
  double nic_gigabytes_per_second = 50;
  double nvlink_gigabytes_per_second = 450;
  double latency_microseconds = 5;
  plan::FleetTopology topology;
  plan::SimulationOptions simulation;
  std::string trace_path;  // empty = none
  std::string html_path;   // empty = none
  std::string tensor;      // explain this one; empty = none
  std::string svg_path;    // and draw it
};

struct FleetResult {
  std::vector<plan::Plan> plans;  // of all engine ranks
  double planning_seconds_max = 0;
  std::optional<plan::RefitSimulation> simulation;
};

// Writes a text file; kUnavailable names the path and the reason.
absl::Status WriteText(const std::string& path, const std::string& text);

// Sets `result.simulation` and writes the trace.
absl::Status SimulateFleet(const FleetArgs& args, FleetResult& result);

// A table of where each box of `args.tensor` comes from, or JSON; writes the
// picture.
absl::StatusOr<std::string> DescribeTensor(const FleetArgs& args,
                                           const PlanJob& job,
                                           const FleetResult& result,
                                           bool json);

std::string FormatFleet(const PlanJob& job, const FleetResult& result);
// One JSON object.
std::string FleetJson(const PlanJob& job, const FleetResult& result);

}  // namespace weft::apps

#endif  // WEFT_APPS_FLEET_REPORT_H_
