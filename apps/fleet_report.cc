#include "fleet_report.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "console.h"
#include "weft/base/status.h"
#include "weft/plan/explain.h"
#include "weft/plan/explain_tensor.h"

namespace weft::apps {
namespace {

std::string FormatSimulation(const plan::RefitSimulation& simulation) {
  if (simulation.critical_port < 0) return "nothing to move";
  const plan::SimulatedPort& critical =
      simulation.ports[simulation.critical_port];
  return absl::StrCat(
      fmt::format("{} of {} cross nodes\n",
                  HumanBytes(simulation.cross_node_bytes),
                  HumanBytes(simulation.total_bytes)),
      fmt::format("bounds: receive {}, send {} (evenly spread over the NICs), "
                  "busiest port {}\n",
                  HumanSeconds(simulation.receive_bound_seconds),
                  HumanSeconds(simulation.send_bound_seconds),
                  HumanSeconds(simulation.bound_seconds)),
      fmt::format(
          "simulated: {}, {:.2f} of the bound ({} operations of at most "
          "{}); the busiest is {}, for {}",
          HumanSeconds(simulation.seconds),
          simulation.bound_seconds / simulation.seconds,
          simulation.num_operations, HumanBytes(simulation.operation_bytes),
          critical.ToString(), HumanSeconds(critical.busy_seconds)));
}

nlohmann::json SimulationJson(const plan::RefitSimulation& simulation) {
  nlohmann::json json = {
      {"total_bytes", simulation.total_bytes},
      {"cross_node_bytes", simulation.cross_node_bytes},
      {"receive_bound_seconds", simulation.receive_bound_seconds},
      {"send_bound_seconds", simulation.send_bound_seconds},
      {"bound_seconds", simulation.bound_seconds},
      {"seconds", simulation.seconds},
      {"operations", simulation.num_operations},
      {"operation_bytes", simulation.operation_bytes}};
  for (const plan::SimulatedPort& port : simulation.ports) {
    json["ports"].push_back({{"port", port.ToString()},
                             {"bytes", port.bytes},
                             {"busy_seconds", port.busy_seconds}});
  }
  if (simulation.critical_port >= 0) {
    json["critical"] = simulation.ports[simulation.critical_port].ToString();
  }
  return json;
}

std::string FormatParts(const std::vector<plan::TensorPart>& parts) {
  std::vector<std::vector<std::string>> rows;
  for (const plan::TensorPart& part : parts) {
    const bool zeros = part.src_rank < 0;
    rows.push_back(
        {absl::StrCat(part.dst_rank), part.dst_stored,
         zeros ? "padding" : part.logical, part.box.ToString(),
         zeros ? "zeros" : absl::StrCat(part.src_rank), part.src_stored,
         HumanBytes(part.bytes), zeros ? "" : absl::StrCat(part.num_runs),
         zeros ? "" : HumanBytes(part.contiguous_bytes),
         part.conversion.identity() ? "" : tensor::ToString(part.conversion)});
  }
  return FormatTable({"ENGINE RANK", "STORED", "TENSOR", "BOX", "FROM RANK",
                      "ITS STORED", "BYTES", "RUNS", "PIECES OF", "CONVERSION"},
                     rows);
}

std::string PartsJson(const std::vector<plan::TensorPart>& parts) {
  nlohmann::json list = nlohmann::json::array();
  for (const plan::TensorPart& part : parts) {
    nlohmann::json box = nlohmann::json::array();
    for (const tensor::Range& range : part.box.ranges()) {
      box.push_back({range.begin, range.end});
    }
    nlohmann::json each = {{"engine_rank", part.dst_rank},
                           {"stored", part.dst_stored},
                           {"box", std::move(box)},
                           {"bytes", part.bytes},
                           {"zeros", part.src_rank < 0}};
    if (part.src_rank >= 0) {
      each["tensor"] = part.logical;
      each["source_rank"] = part.src_rank;
      each["source_stored"] = part.src_stored;
      each["runs"] = part.num_runs;
      each["shortest_run_bytes"] = part.contiguous_bytes;
      each["conversion"] = tensor::ToString(part.conversion);
    }
    list.push_back(std::move(each));
  }
  return nlohmann::json{{"parts", std::move(list)}}.dump();
}

}  // namespace

absl::Status WriteText(const std::string& path, const std::string& text) {
  const auto failed = [&path] {
    return absl::UnavailableError(
        absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  };
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return failed();
  const bool written =
      std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const absl::Status status = written ? absl::OkStatus() : failed();
  if (std::fclose(file) != 0 && status.ok()) return failed();
  return status;
}

absl::Status SimulateFleet(const FleetArgs& args, FleetResult& result) {
  plan::FleetTopology topology = args.topology;
  topology.nic_bytes_per_second = args.nic_gigabytes_per_second * 1e9;
  topology.nvlink_bytes_per_second = args.nvlink_gigabytes_per_second * 1e9;
  topology.latency_seconds = args.latency_microseconds * 1e-6;
  plan::SimulationOptions options = args.simulation;
  options.keep_trace = !args.trace_path.empty();
  WEFT_ASSIGN_OR_RETURN(result.simulation,
                        plan::SimulateRefit(result.plans, topology, options));
  if (args.trace_path.empty()) return absl::OkStatus();
  return WriteText(args.trace_path,
                   plan::TraceJson(*result.simulation, topology));
}

absl::StatusOr<std::string> DescribeTensor(const FleetArgs& args,
                                           const PlanJob& job,
                                           const FleetResult& result,
                                           bool json) {
  WEFT_ASSIGN_OR_RETURN(
      const std::vector<plan::TensorPart> parts,
      plan::ExplainTensor(result.plans, job.targets, *job.index, args.tensor));
  if (!args.svg_path.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        const std::string svg,
        plan::DrawTensor(parts, job.targets, *job.index, args.tensor));
    WEFT_RETURN_IF_ERROR(WriteText(args.svg_path, svg));
  }
  return json ? PartsJson(parts) : FormatParts(parts);
}

std::string FormatFleet(const PlanJob& job, const FleetResult& result) {
  std::vector<std::vector<std::string>> rows;
  for (const plan::Plan& each : result.plans) {
    rows.push_back(
        {absl::StrCat(each.target_rank), absl::StrCat(each.peers.size()),
         absl::StrCat(each.totals.moves), absl::StrCat(each.totals.runs),
         HumanBytes(each.totals.dst_bytes),
         HumanBytes(each.totals.zero_fill_bytes),
         HumanBytes(each.totals.shortest_run_bytes)});
  }
  const plan::FleetLoad load = plan::MeasureFleetLoad(result.plans, *job.index);
  return absl::StrCat(
      "plan of ", job.model_name, ": ", job.from_text, " (", job.sources.size(),
      " ranks) -> ", job.to_text, " (", result.plans.size(), " ranks)\n\n",
      FormatTable({"RANK", "PEERS", "MOVES", "RUNS", "BYTES", "ZERO-FILLED",
                   "SHORTEST RUN"},
                  rows),
      "\ncoverage: every destination element of every rank is written exactly "
      "once (checked)\n",
      fmt::format("sent {}, unique {}; load per source max/mean {:.2f}\n",
                  HumanBytes(load.sent_bytes), HumanBytes(load.unique_bytes),
                  load.max_over_mean),
      result.simulation.has_value()
          ? absl::StrCat(FormatSimulation(*result.simulation), "\n")
          : "",
      fmt::format("planned in at most {} a rank",
                  HumanSeconds(result.planning_seconds_max)));
}

std::string FleetJson(const PlanJob& job, const FleetResult& result) {
  const plan::FleetLoad load = plan::MeasureFleetLoad(result.plans, *job.index);
  nlohmann::json json = {{"from", job.from_text},
                         {"to", job.to_text},
                         {"coverage", "exact"},
                         {"sent_bytes", load.sent_bytes},
                         {"unique_bytes", load.unique_bytes},
                         {"max_over_mean", load.max_over_mean},
                         {"seconds_max_per_rank", result.planning_seconds_max}};
  for (const auto& source : load.sources) {
    json["sources"].push_back({{"rank", source.rank}, {"bytes", source.bytes}});
  }
  for (size_t r = 0; r < result.plans.size(); ++r) {
    json["ranks"].push_back(nlohmann::json::parse(plan::ExplainPlanJson(
        result.plans[r], *job.index, job.targets[r], {})));
  }
  if (result.simulation.has_value()) {
    json["simulation"] = SimulationJson(*result.simulation);
  }
  return json.dump();
}

}  // namespace weft::apps
