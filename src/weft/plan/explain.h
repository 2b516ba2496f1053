// The plan for a person and for programs.
#ifndef WEFT_PLAN_EXPLAIN_H_
#define WEFT_PLAN_EXPLAIN_H_

#include <memory>
#include <string>
#include <vector>

#include "weft/plan/compact_plan.h"
#include "weft/plan/fleet_topology.h"
#include "weft/plan/plan.h"

namespace weft::plan {

struct ExplainOptions {
  // Bytes per second of the slowest link, for the bound; 0 = not known.
  double link_bytes_per_second = 0;
  int max_tensors = 20;  // rows of the per-tensor table; 0 = all
  // Of the plan as a file, packed; 0 = not known.
  int64_t file_bytes = 0;
};

// Several lines: totals, bytes by peer, run lengths, direct or staged and why,
// conversions with "lossy?", zero fills, the bound and the expected time.
std::string ExplainPlan(const Plan& plan, const SourceIndex& sources,
                        const manifest::Placement& target,
                        const ExplainOptions& options);

// The same as one JSON object; fields documented in docs/formats/plan.md.
std::string ExplainPlanJson(const Plan& plan, const SourceIndex& sources,
                            const manifest::Placement& target,
                            const ExplainOptions& options);

// Whole fleet: the plans of all target ranks of one engine mesh.
struct FleetLoad {
  struct Source {
    int64_t rank = 0;
    int64_t bytes = 0;
  };
  std::vector<Source> sources;  // every source rank, also those with 0 bytes
  int64_t sent_bytes = 0;
  int64_t unique_bytes = 0;  // distinct source elements needed, once each
  double max_over_mean = 0;  // over sources that hold anything
  // What no choice among replicas gets below: some sources alone hold what is
  // read most.
  double least_max_over_mean = 0;
  // What would cross nodes if every node of engines took each element once and
  // its GPUs copied it by NVLink.
  int64_t once_per_node_bytes = 0;
  // Logical tensors that sources hold and no plan reads anything of, by name.
  std::vector<std::string> unread;
};

// Adds up the plans of a fleet one after another, so that none of them need be
// kept.
class FleetMeter {
 public:
  // `sources` and `topology` outlive it. `topology` must have passed Check and
  // place all ranks; nullptr: FleetLoad::once_per_node_bytes is 0.
  FleetMeter(const SourceIndex& sources, const FleetTopology* topology);
  ~FleetMeter();
  // `target`: what the plan is for.
  void Add(const CompactPlan& plan, const manifest::Placement& target);
  FleetLoad Finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::plan

#endif  // WEFT_PLAN_EXPLAIN_H_
