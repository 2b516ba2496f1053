// How long a refit of a whole fleet takes, before there is one: the bounds by
// the links, and a discrete simulation of the transfer. Pure.
//
// The model. A rank is a GPU, which has a NIC or a part of one and a port to
// its node's NVLink switch; each of these carries one transfer at a time in
// each direction, in order of arrival. A receiver keeps `window` operations in
// flight, in turn over its sources. An operation waits for the latency, then
// for the sender's port, then, from rail to rail, for the spine if that has a
// limit, then for the receiver's port: a tandem queue. What the model leaves
// out: the switches of a rail (taken as non-blocking), the memory's bandwidth,
// and digests (taken as hidden behind the wire).
#ifndef WEFT_PLAN_SIMULATE_REFIT_H_
#define WEFT_PLAN_SIMULATE_REFIT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/fleet_topology.h"

namespace weft::plan {

struct SimulationOptions {
  int64_t window = 32;  // operations in flight, per receiver
  int64_t operation_bytes = int64_t{4} << 20;
  // Operations are made larger when there would be more than this.
  int64_t max_operations = int64_t{1} << 19;
  bool keep_trace = false;
};

enum class PortKind { kNic, kNvlink, kSpine };

// One direction of a NIC or of a GPU's NVLink port, or the spine.
struct SimulatedPort {
  PortKind kind = PortKind::kNic;
  bool is_trainer = false;  // sends; else receives
  int32_t node = -1;
  int32_t index = 0;           // NIC or GPU of the node
  std::vector<int64_t> ranks;  // that move anything through it, ascending
  double bytes_per_second = 0;
  int64_t bytes = 0;
  double busy_seconds = 0;
  std::string ToString() const;  // "nic of engine rank 3, receiving"
};

// How evenly bytes lie on the NICs of one side, idle ones included.
struct NicLoad {
  int64_t num_nics = 0;
  int64_t most_bytes = 0;
  double max_over_mean = 0;
};

// Operations of one flow that followed each other on a port.
struct TraceSlice {
  int32_t port = 0;  // into RefitSimulation::ports
  int64_t src_rank = 0;
  int64_t dst_rank = 0;
  int64_t bytes = 0;
  double begin_seconds = 0;
  double end_seconds = 0;
};

struct RefitSimulation {
  int64_t total_bytes = 0;
  int64_t cross_node_bytes = 0;
  int64_t cross_rail_bytes = 0;  // of these, from one rail to another
  NicLoad sending;
  NicLoad receiving;
  // Over NICs, as docs/numbers.md takes them: all bytes that cross nodes over
  // all receiving (sending) NICs of ranks that receive (send) any.
  double receive_bound_seconds = 0;
  double send_bound_seconds = 0;
  // The busiest port's (or the spine's) bytes over its rate: no refit is
  // faster.
  double bound_seconds = 0;
  double seconds = 0;  // the simulated refit
  int32_t critical_port = -1;
  int64_t num_operations = 0;
  int64_t operation_bytes = 0;       // that were simulated
  std::vector<SimulatedPort> ports;  // that carry anything
  std::vector<TraceSlice> trace;
};

// `plans`: of all target ranks. kInvalidArgument with all that is wrong with
// the topology or the options, and ranks of the plans that it does not place.
absl::StatusOr<RefitSimulation> SimulateRefit(
    const std::vector<CompactPlan>& plans, const FleetTopology& topology,
    const SimulationOptions& options);

// What a trainer pays beside if it gathers its shards first, so that each
// element is on some GPU whole: `unique_bytes` once over all its NICs, or over
// NVLink if it is one node.
double GatherSeconds(int64_t unique_bytes, const FleetTopology& topology);

// The trace as JSON for Perfetto (https://ui.perfetto.dev) or chrome://tracing:
// a process a node, a thread a port.
std::string TraceJson(const RefitSimulation& simulation,
                      const FleetTopology& topology);

}  // namespace weft::plan

#endif  // WEFT_PLAN_SIMULATE_REFIT_H_
