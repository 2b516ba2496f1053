// How long a refit of a whole fleet takes, before there is one: the bounds by
// the links, and a discrete simulation of the transfer. Pure.
//
// The model. Every rank is a GPU with a NIC of its own and a port to its node's
// NVLink switch; each of these carries one transfer at a time in each
// direction, in order of arrival. A receiver keeps `window` operations in
// flight, in turn over its sources. An operation waits for the latency, then
// for the sender's port, then for the receiver's: a tandem queue. What the
// model leaves out: switches between nodes (taken as non-blocking), the
// memory's bandwidth, and digests (taken as hidden behind the wire).
#ifndef WEFT_PLAN_SIMULATE_REFIT_H_
#define WEFT_PLAN_SIMULATE_REFIT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/plan/plan.h"

namespace weft::plan {

struct FleetTopology {
  int64_t gpus_per_node = 8;
  double nic_bytes_per_second = 50e9;      // of a GPU, each way
  double nvlink_bytes_per_second = 450e9;  // of a GPU, each way
  double latency_seconds = 5e-6;           // of an operation
  // Trainer rank r and engine rank r live on the same node (r / gpus_per_node);
  // else the nodes of the engines come after those of the trainer.
  bool colocated = false;
};

struct SimulationOptions {
  int64_t window = 32;  // operations in flight, per receiver
  int64_t operation_bytes = int64_t{4} << 20;
  // Operations are made larger when there would be more than this.
  int64_t max_operations = int64_t{1} << 19;
  bool keep_trace = false;
};

// One direction of one rank's NIC or NVLink port.
struct SimulatedPort {
  bool is_trainer = false;
  int64_t rank = 0;
  bool is_nic = true;  // else NVLink
  int64_t bytes = 0;
  double busy_seconds = 0;
  std::string ToString() const;  // "nic of engine rank 3, receiving"
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
  // Over NICs, as docs/numbers.md takes them: all bytes that cross nodes over
  // all receiving (sending) NICs of ranks that receive (send) any.
  double receive_bound_seconds = 0;
  double send_bound_seconds = 0;
  // The busiest port's bytes over its rate: no refit is faster.
  double bound_seconds = 0;
  double seconds = 0;  // the simulated refit
  int32_t critical_port = -1;
  int64_t num_operations = 0;
  int64_t operation_bytes = 0;       // that were simulated
  std::vector<SimulatedPort> ports;  // that carry anything
  std::vector<TraceSlice> trace;
};

// `plans`: of all target ranks. kInvalidArgument if a rate, the window or the
// size of an operation is not positive.
absl::StatusOr<RefitSimulation> SimulateRefit(const std::vector<Plan>& plans,
                                              const FleetTopology& topology,
                                              const SimulationOptions& options);

// The trace as JSON for Perfetto (https://ui.perfetto.dev) or chrome://tracing:
// a process a node, a thread a port.
std::string TraceJson(const RefitSimulation& simulation,
                      const FleetTopology& topology);

}  // namespace weft::plan

#endif  // WEFT_PLAN_SIMULATE_REFIT_H_
