#include "fleet_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "console.h"
#include "text_file.h"
#include "topology_file.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

constexpr size_t kMaxListedNames = 5;

std::vector<std::string> UnusedTensors(const PlanJob& job) {
  absl::flat_hash_set<std::string_view> held;
  held.reserve(job.logical.size());
  for (const manifest::Placement& target : job.targets) {
    std::vector<bool> is_held(target.tensors.size(), false);
    for (const layout::StoredTensor& stored : target.stored) {
      for (const layout::Fragment& fragment : stored.fragments) {
        is_held[fragment.tensor] = true;
      }
    }
    for (size_t i = 0; i < is_held.size(); ++i) {
      if (is_held[i]) held.insert(target.tensors[i].name);
    }
  }
  std::vector<std::string> unused;
  for (const tensor::TensorSpec& tensor : job.logical) {
    if (!held.contains(tensor.name)) unused.push_back(tensor.name);
  }
  return unused;
}

std::string NicLoadText(const char* verb, const plan::NicLoad& load) {
  return fmt::format("{} at most {} of {} NICs, max/mean {:.2f}", verb,
                     HumanBytes(load.most_bytes), load.num_nics,
                     load.max_over_mean);
}

std::string FormatSimulation(const FleetResult& fleet) {
  const plan::RefitSimulation& simulation = *fleet.simulation;
  if (simulation.critical_port < 0) return "nothing to move\n";
  const plan::SimulatedPort& critical =
      simulation.ports[simulation.critical_port];
  std::string text = fmt::format("{} of {} cross nodes",
                                 HumanBytes(simulation.cross_node_bytes),
                                 HumanBytes(simulation.total_bytes));
  if (fleet.topology.rails) {
    absl::StrAppend(&text, ", ", HumanBytes(simulation.cross_rail_bytes),
                    " from rail to rail");
  }
  if (simulation.cross_node_bytes > 0) {
    absl::StrAppend(&text,
                    "\nper NIC: ", NicLoadText("sent", simulation.sending),
                    "; ", NicLoadText("received", simulation.receiving));
  }
  absl::StrAppend(
      &text,
      fmt::format("\nbounds: receive {}, send {} (evenly spread over the "
                  "NICs), busiest port {}\n",
                  HumanSeconds(simulation.receive_bound_seconds),
                  HumanSeconds(simulation.send_bound_seconds),
                  HumanSeconds(simulation.bound_seconds)),
      fmt::format("a trainer that gathered its shards first would add {}; "
                  "were each element to cross once a node ({}), receiving "
                  "would take {}\n",
                  HumanSeconds(fleet.gather_seconds),
                  HumanBytes(fleet.load.once_per_node_bytes),
                  HumanSeconds(fleet.once_per_node_seconds)),
      fmt::format(
          "simulated: {}, {:.2f} of the bound ({} operations of at most "
          "{}); the busiest is {}, for {}\n",
          HumanSeconds(simulation.seconds),
          simulation.bound_seconds / simulation.seconds,
          simulation.num_operations, HumanBytes(simulation.operation_bytes),
          critical.ToString(), HumanSeconds(critical.busy_seconds)));
  return text;
}

nlohmann::json NicLoadJson(const plan::NicLoad& load) {
  return {{"nics", load.num_nics},
          {"most_bytes", load.most_bytes},
          {"max_over_mean", load.max_over_mean}};
}

nlohmann::json SimulationJson(const FleetResult& fleet) {
  const plan::RefitSimulation& simulation = *fleet.simulation;
  nlohmann::json json = {
      {"total_bytes", simulation.total_bytes},
      {"cross_node_bytes", simulation.cross_node_bytes},
      {"cross_rail_bytes", simulation.cross_rail_bytes},
      {"sending", NicLoadJson(simulation.sending)},
      {"receiving", NicLoadJson(simulation.receiving)},
      {"receive_bound_seconds", simulation.receive_bound_seconds},
      {"send_bound_seconds", simulation.send_bound_seconds},
      {"gather_seconds", fleet.gather_seconds},
      {"once_per_node_bytes", fleet.load.once_per_node_bytes},
      {"once_per_node_seconds", fleet.once_per_node_seconds},
      {"bound_seconds", simulation.bound_seconds},
      {"seconds", simulation.seconds},
      {"operations", simulation.num_operations},
      {"operation_bytes", simulation.operation_bytes}};
  for (const plan::SimulatedPort& port : simulation.ports) {
    json["ports"].push_back(
        {{"port", port.ToString()},
         {"node", port.node < 0 ? "" : fleet.topology.nodes[port.node].name},
         {"bytes", port.bytes},
         {"busy_seconds", port.busy_seconds}});
  }
  if (simulation.critical_port >= 0) {
    json["critical"] = simulation.ports[simulation.critical_port].ToString();
  }
  return json;
}

// A row for each rank, one for neighbours that are alike.
std::string FormatRanks(const std::vector<plan::CompactPlan>& plans) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::pair<int64_t, int64_t>> ranks;  // of each row
  for (const plan::CompactPlan& each : plans) {
    std::vector<std::string> row = {"",
                                    absl::StrCat(each.peers.size()),
                                    absl::StrCat(each.totals.moves),
                                    absl::StrCat(each.totals.runs),
                                    HumanBytes(each.totals.dst_bytes),
                                    HumanBytes(each.totals.zero_fill_bytes),
                                    HumanBytes(each.totals.shortest_run_bytes)};
    if (!rows.empty() && rows.back() == row) {
      ranks.back().second = each.target_rank;
    } else {
      rows.push_back(std::move(row));
      ranks.emplace_back(each.target_rank, each.target_rank);
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& [first, last] = ranks[i];
    rows[i][0] =
        first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
  }
  return FormatTable({"ENGINE RANK", "PEERS", "MOVES", "RUNS", "BYTES",
                      "ZERO-FILLED", "SHORTEST RUN"},
                     rows);
}

std::string NamesText(std::vector<std::string> names) {
  const size_t count = names.size();
  names.resize(std::min(count, kMaxListedNames));
  return absl::StrCat(absl::StrJoin(names, ", "),
                      count > names.size() ? ", ..." : "");
}

// "3 tensors of the checkpoint are", "1 tensor of the checkpoint is".
std::string TensorsAre(size_t count, const char* side) {
  return absl::StrCat(count, count == 1 ? " tensor" : " tensors", " of the ",
                      side, count == 1 ? " is" : " are");
}

std::string FormatLeftOver(const FleetResult& fleet) {
  const std::vector<std::string>& unused = fleet.unused;
  const std::vector<std::string>& unread = fleet.load.unread;
  if (unused.empty() && unread.empty()) {
    return "left over: no tensor of the checkpoint, none of the trainer\n";
  }
  std::string text;
  if (!unused.empty()) {
    absl::StrAppend(&text, TensorsAre(unused.size(), "checkpoint"),
                    " on no engine rank: ", NamesText(unused), "\n");
  }
  if (!unread.empty()) {
    absl::StrAppend(&text, TensorsAre(unread.size(), "trainer"),
                    " read by nobody: ", NamesText(unread), "\n");
  }
  return text;
}

// "" unless engine ranks quantise anything.
std::string FormatStages(const PlanJob& job) {
  size_t ranks = 0;
  size_t pieces = 0;
  size_t rounds = 0;
  int64_t bytes = 0;
  for (size_t r = 0; r < job.steps.size(); ++r) {
    ranks += job.steps[r].empty() ? 0 : 1;
    pieces += job.steps[r].size();
    rounds = std::max(rounds, job.staging[r].rounds);
    bytes = std::max(bytes, job.staging[r].bytes);
  }
  if (pieces == 0) return "";
  return fmt::format(
      "FP8: {} {} pieces on arrival, in at most {} with {} of staging\n",
      ranks == 1 ? "1 engine rank quantises"
                 : absl::StrCat(ranks, " engine ranks quantise"),
      pieces, rounds == 1 ? "1 round" : absl::StrCat(rounds, " rounds"),
      HumanBytes(bytes));
}

}  // namespace

std::string RanksText(const std::set<int64_t>& ranks) {
  std::vector<std::string> texts;
  for (auto it = ranks.begin(); it != ranks.end();) {
    const int64_t first = *it;
    int64_t last = first;
    while (++it != ranks.end() && *it == last + 1) ++last;
    texts.push_back(first == last ? absl::StrCat(first)
                                  : absl::StrCat(first, "-", last));
  }
  return absl::StrJoin(texts, ",");
}

absl::StatusOr<plan::FleetTopology> TopologyOf(const FleetArgs& args,
                                               const PlanJob& job) {
  const auto num_trainers = static_cast<int64_t>(job.sources.size());
  const auto num_engines = static_cast<int64_t>(job.targets.size());
  if (!args.topology_path.empty()) {
    return LoadTopology(args.topology_path, num_trainers, num_engines);
  }
  plan::UniformFleet uniform = args.uniform;
  uniform.nic_bytes_per_second = args.nic_gigabytes_per_second * 1e9;
  uniform.nvlink_bytes_per_second = args.nvlink_gigabytes_per_second * 1e9;
  uniform.latency_seconds = args.latency_microseconds * 1e-6;
  return plan::PlaceInOrder(uniform, num_trainers, num_engines);
}

absl::StatusOr<FleetResult> PlanFleet(const PlanJob& job,
                                      const FleetArgs* args) {
  FleetResult fleet;
  if (args != nullptr) {
    WEFT_ASSIGN_OR_RETURN(fleet.topology, TopologyOf(*args, job));
  }
  plan::FleetMeter meter(*job.index,
                         args != nullptr ? &fleet.topology : nullptr);
  for (size_t r = 0; r < job.targets.size(); ++r) {
    const auto start = std::chrono::steady_clock::now();
    WEFT_ASSIGN_OR_RETURN(plan::CompactPlan built,
                          PlanRank(job, static_cast<int64_t>(r)));
    fleet.planning_seconds_max = std::max(
        fleet.planning_seconds_max,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
    meter.Add(built, job.targets[r]);
    fleet.plans.push_back(std::move(built));
  }
  fleet.load = meter.Finish();
  fleet.unused = UnusedTensors(job);
  return fleet;
}

absl::Status SimulateFleet(const FleetArgs& args, FleetResult& result) {
  plan::SimulationOptions options = args.simulation;
  options.keep_trace = !args.trace_path.empty();
  WEFT_ASSIGN_OR_RETURN(
      result.simulation,
      plan::SimulateRefit(result.plans, result.topology, options));
  result.gather_seconds =
      plan::GatherSeconds(result.load.unique_bytes, result.topology);
  const plan::RefitSimulation& simulation = *result.simulation;
  if (simulation.cross_node_bytes > 0) {
    result.once_per_node_seconds =
        simulation.receive_bound_seconds *
        static_cast<double>(result.load.once_per_node_bytes) /
        static_cast<double>(simulation.cross_node_bytes);
  }
  if (args.trace_path.empty()) return absl::OkStatus();
  return WriteText(args.trace_path,
                   plan::TraceJson(*result.simulation, result.topology));
}

std::string FormatFleet(const PlanJob& job, const FleetResult& result) {
  const plan::FleetLoad& load = result.load;
  return absl::StrCat(
      "plan of ", job.model_name, ": ", job.from_text, " (", job.sources.size(),
      " ranks) -> ", job.to_text, " (", result.plans.size(), " ranks)\n\n",
      FormatRanks(result.plans),
      "\ncoverage: every destination element of every rank is written exactly "
      "once (checked)\n",
      FormatLeftOver(result), FormatStages(job),
      fmt::format("sent {}, unique {}; load per source max/mean {:.2f}, by "
                  "any choice of replicas at least {:.2f}\n",
                  HumanBytes(load.sent_bytes), HumanBytes(load.unique_bytes),
                  load.max_over_mean, load.least_max_over_mean),
      result.simulation.has_value() ? FormatSimulation(result) : "",
      fmt::format("planned in at most {} a rank",
                  HumanSeconds(result.planning_seconds_max)));
}

absl::StatusOr<std::string> FleetJson(const PlanJob& job,
                                      const FleetResult& result) {
  const plan::FleetLoad& load = result.load;
  nlohmann::json json = {{"from", job.from_text},
                         {"to", job.to_text},
                         {"coverage", "exact"},
                         {"sent_bytes", load.sent_bytes},
                         {"unique_bytes", load.unique_bytes},
                         {"max_over_mean", load.max_over_mean},
                         {"least_max_over_mean", load.least_max_over_mean},
                         {"unused_checkpoint_tensors", result.unused},
                         {"unread_trainer_tensors", load.unread},
                         {"seconds_max_per_rank", result.planning_seconds_max}};
  for (const auto& source : load.sources) {
    json["sources"].push_back({{"rank", source.rank}, {"bytes", source.bytes}});
  }
  for (size_t r = 0; r < result.plans.size(); ++r) {
    // One at a time: the moves of a fleet are too many to hold at once.
    WEFT_ASSIGN_OR_RETURN(const plan::Plan expanded,
                          ExpandRank(job, result.plans[r]));
    json["ranks"].push_back(nlohmann::json::parse(
        plan::ExplainPlanJson(expanded, *job.index, job.targets[r], {})));
    if (job.steps[r].empty()) continue;
    json["ranks"].back()["stages"] = {{"pieces", job.steps[r].size()},
                                      {"rounds", job.staging[r].rounds},
                                      {"bytes", job.staging[r].bytes}};
  }
  if (result.simulation.has_value()) {
    json["simulation"] = SimulationJson(result);
  }
  return json.dump();
}

}  // namespace weft::apps
