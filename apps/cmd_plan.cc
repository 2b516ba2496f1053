// weft plan: prints and proves a plan before anything moves. Needs a config,
// no checkpoint and no process.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "fleet_html.h"
#include "fleet_report.h"
#include "plan_job.h"
#include "weft/base/status.h"
#include "weft/plan/explain.h"

namespace weft::apps {
namespace {

struct PlanArgs {
  std::string config;
  std::string from;
  std::string to;
  std::string recipes;
  int64_t rank = -1;  // all
  double link_gigabytes_per_second = 0;
  FleetArgs fleet;
  bool json = false;
};

void AddFleetOptions(CLI::App& command, FleetArgs& fleet) {
  command
      .add_option("--gpus-per-node", fleet.topology.gpus_per_node,
                  "simulate the refit: ranks of a node, in order")
      ->check(CLI::PositiveNumber)
      ->each([&fleet](const std::string&) { fleet.simulate = true; });
  command
      .add_option("--nic-gbs", fleet.nic_gigabytes_per_second,
                  "GB/s of a GPU's NIC, each way")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--nvlink-gbs", fleet.nvlink_gigabytes_per_second,
                  "GB/s of a GPU's NVLink, each way")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--latency-us", fleet.latency_microseconds,
                  "microseconds before an operation begins")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--window", fleet.simulation.window,
                  "operations in flight, per engine rank")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_flag("--colocated", fleet.topology.colocated,
                   "trainer rank r and engine rank r share a node");
  command.add_option("--trace", fleet.trace_path,
                     "write the simulated timeline, for ui.perfetto.dev");
  command.add_option("--html", fleet.html_path,
                     "write a page with a heat map of bytes by ranks");
  CLI::Option* tensor =
      command.add_option("--tensor", fleet.tensor,
                         "where each box of this tensor comes from: a name of "
                         "the checkpoint or of "
                         "the engine");
  command
      .add_option("--svg", fleet.svg_path,
                  "draw that tensor's shards on both sides (names of the "
                  "checkpoint only)")
      ->needs(tensor);
}

absl::Status PlanCommand(const PlanArgs& args) {
  if (!args.fleet.trace_path.empty() && !args.fleet.simulate) {
    return absl::InvalidArgumentError(
        "--trace needs a simulation; say --gpus-per-node as well");
  }
  WEFT_ASSIGN_OR_RETURN(
      const PlanJob job,
      MakePlanJob(args.config, args.recipes, args.from, args.to));
  plan::ExplainOptions explain;
  explain.link_bytes_per_second = args.link_gigabytes_per_second * 1e9;
  if (args.rank >= 0) {
    if (args.rank >= static_cast<int64_t>(job.targets.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", args.rank, " is not below the ",
                       job.targets.size(), " ranks of \"", job.to_text, "\""));
    }
    const manifest::Placement& target = job.targets[args.rank];
    WEFT_ASSIGN_OR_RETURN(const plan::Plan built, PlanRank(job, args.rank));
    PrintLine(args.json
                  ? plan::ExplainPlanJson(built, *job.index, target, explain)
                  : plan::ExplainPlan(built, *job.index, target, explain));
    return absl::OkStatus();
  }
  FleetResult fleet;
  for (size_t r = 0; r < job.targets.size(); ++r) {
    const auto start = std::chrono::steady_clock::now();
    WEFT_ASSIGN_OR_RETURN(plan::Plan built,
                          PlanRank(job, static_cast<int64_t>(r)));
    fleet.planning_seconds_max = std::max(
        fleet.planning_seconds_max,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
    fleet.plans.push_back(std::move(built));
  }
  if (!args.fleet.tensor.empty()) {
    WEFT_ASSIGN_OR_RETURN(const std::string text,
                          DescribeTensor(args.fleet, job, fleet, args.json));
    PrintLine(text);
    return absl::OkStatus();
  }
  if (args.fleet.simulate) {
    WEFT_RETURN_IF_ERROR(SimulateFleet(args.fleet, fleet));
  }
  if (!args.fleet.html_path.empty()) {
    WEFT_RETURN_IF_ERROR(
        WriteText(args.fleet.html_path, FleetHtml(job, fleet)));
  }
  PrintLine(args.json ? FleetJson(job, fleet) : FormatFleet(job, fleet));
  return absl::OkStatus();
}

}  // namespace

void AddPlan(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<PlanArgs>();
  CLI::App* command = app.add_subcommand(
      "plan", "Plan a refit between two layouts and prove its coverage");
  command->footer(
      "examples:\n"
      "  weft plan --config config.json --from megatron:tp=2,pp=2 --to "
      "vllm:tp=4 --rank 1\n"
      "  weft plan --config config.json --from fsdp:shard=64 --to vllm:tp=8 "
      "--gpus-per-node 8 --trace refit.json\n"
      "  weft plan --config config.json --from fsdp:shard=4 --to vllm:tp=2 "
      "--tensor model.layers.0.self_attn.k_proj.weight --svg k_proj.svg");
  command
      ->add_option("--config", args->config,
                   "config.json or a directory that holds one")
      ->required();
  command->add_option("--from", args->from, "layout of the trainer")
      ->required();
  command->add_option("--to", args->to, "layout of the engine")->required();
  command
      ->add_option("--rank", args->rank,
                   "explain this engine rank; all ranks in brief if absent")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--link-gbs", args->link_gigabytes_per_second,
                      "GB/s of the slowest link, for the bound");
  AddFleetOptions(*command, args->fleet);
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_flag("--json", args->json, "print one JSON object");
  command->callback([args, exit_code] {
    const absl::Status status = PlanCommand(*args);
    *exit_code = status.ok() ? 0 : Fail("plan", status, args->json);
  });
}

}  // namespace weft::apps
