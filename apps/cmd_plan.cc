// weft plan: prints and proves a plan before anything moves. Needs a config or
// a checkpoint, and no process.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <system_error>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "fleet_html.h"
#include "fleet_report.h"
#include "option_checks.h"
#include "plan_diff.h"
#include "plan_file.h"
#include "plan_job.h"
#include "tensor_report.h"
#include "text_file.h"
#include "weft/base/status.h"
#include "weft/plan/explain.h"

namespace weft::apps {
namespace {

struct PlanArgs {
  PlanModel model;
  std::string from;
  std::string to;
  int64_t rank = -1;  // all
  double link_gigabytes_per_second = 0;
  FleetArgs fleet;
  std::string out_path;  // of that rank's plan; empty = none
  std::string tensor;    // explain this one; empty = none
  std::string svg_path;
  std::string diff;  // another --to, or a file; empty = none
  std::string diff_from;
  bool json = false;
};

void AddSimulationOptions(CLI::App& command, FleetArgs& fleet) {
  command
      .add_option("--topology", fleet.topology_path,
                  "simulate the refit: file that says where ranks live "
                  "(docs/formats/topology.md)")
      ->check(CLI::ExistingFile)
      ->each([&fleet](const std::string&) { fleet.simulate = true; });
  command
      .add_option("--gpus-per-node", fleet.uniform.gpus_per_node,
                  "simulate the refit on equal nodes: ranks of a node, in "
                  "order")
      ->check(AboveZero())
      ->each([&fleet](const std::string&) { fleet.simulate = true; });
  command
      .add_option("--nic-gbs", fleet.nic_gigabytes_per_second,
                  "GB/s of a GPU's NIC, each way")
      ->check(AboveZero())
      ->capture_default_str();
  command
      .add_option("--nvlink-gbs", fleet.nvlink_gigabytes_per_second,
                  "GB/s of a GPU's NVLink, each way")
      ->check(AboveZero())
      ->capture_default_str();
  command
      .add_option("--latency-us", fleet.latency_microseconds,
                  "microseconds before an operation begins")
      ->check(NotBelowZero())
      ->capture_default_str();
  command.add_flag("--colocated", fleet.uniform.colocated,
                   "trainer rank r and engine rank r share a node");
  command
      .add_option("--window", fleet.simulation.window,
                  "operations in flight, per engine rank")
      ->check(AboveZero())
      ->capture_default_str();
  command.add_option("--trace", fleet.trace_path,
                     "write the simulated timeline, for ui.perfetto.dev");
}

void AddReadingOptions(CLI::App& command, PlanArgs& args) {
  command
      .add_option("--rank", args.rank,
                  "explain this engine rank; all ranks in brief if absent")
      ->check(NotBelowZero());
  // Says what is so anyway, for who would rather have said it.
  command.add_flag_callback(
      "--fleet", [] {}, "all ranks in brief, as without --rank");
  command.add_option("--out", args.out_path,
                     "write that rank's plan (docs/formats/plan_file.md)");
  command
      .add_option("--link-gbs", args.link_gigabytes_per_second,
                  "GB/s of the slowest link, for the bound of that rank")
      ->check(AboveZero());
  command.add_option("--tensor,--explain", args.tensor,
                     "where each box of this tensor comes from: a name of "
                     "the checkpoint or of the engine");
  command.add_option("--svg", args.svg_path,
                     "draw that tensor's shards on both sides (names of the "
                     "checkpoint only)");
  command.add_option("--html", args.fleet.html_path,
                     "write a page with a heat map of bytes by ranks");
  command.add_option("--diff", args.diff,
                     "compare with another --to, or with a placement "
                     "(docs/formats/placement.md) or a plan in a file");
  command.add_option("--diff-from", args.diff_from,
                     "compare with another --from");
}

// Options that would have no effect beside others are refused, not ignored.
absl::Status CheckOptions(const CLI::App& command) {
  base::FaultList faults;
  for (const CLI::Option* option : command.get_options()) {
    // As from a variable of a script that is not set.
    if (absl::c_linear_search(option->results(), "")) {
      faults.Add(absl::StrCat(option->get_name(), " is given with nothing"));
    }
  }
  const auto given = [&command](const char* option) {
    return command.count(option) > 0;
  };
  const auto refuse = [&](const char* option, const char* reason,
                          std::initializer_list<const char*> others) {
    if (!given(option)) return;
    for (const char* other : others) {
      if (!given(other)) continue;
      faults.Add(absl::StrCat(option, " ", reason, "; leave out ", other));
    }
  };
  const auto need = [&](std::initializer_list<const char*> options,
                        bool satisfied, const char* sentence) {
    for (const char* option : options) {
      if (given(option) && !satisfied) {
        faults.Add(absl::StrCat(option, " ", sentence));
      }
    }
  };
  refuse("--rank", "explains one rank",
         {"--tensor", "--svg", "--html", "--gpus-per-node", "--topology",
          "--trace", "--diff", "--diff-from"});
  refuse("--fleet", "is about all ranks",
         {"--rank", "--tensor", "--diff", "--diff-from"});
  refuse("--tensor", "explains one tensor",
         {"--html", "--gpus-per-node", "--topology", "--trace", "--diff",
          "--diff-from"});
  for (const char* diff : {"--diff", "--diff-from"}) {
    refuse(diff, "compares plans",
           {"--html", "--gpus-per-node", "--topology", "--trace"});
  }
  refuse("--topology", "says where ranks live and how fast links are",
         {"--gpus-per-node", "--nic-gbs", "--nvlink-gbs", "--latency-us",
          "--colocated"});
  need({"--trace", "--window"}, given("--gpus-per-node") || given("--topology"),
       "needs a simulation; say --gpus-per-node as well, or --topology");
  if (!given("--topology")) {
    need({"--nic-gbs", "--nvlink-gbs", "--latency-us", "--colocated"},
         given("--gpus-per-node"),
         "is for the simulation; say --gpus-per-node as well");
  }
  need({"--svg"}, given("--tensor"), "draws one tensor; say --tensor as well");
  need({"--out"}, given("--rank"),
       "writes the plan of one rank; say --rank as well");
  need({"--link-gbs"}, given("--rank"),
       "is for the bound of one rank; say --rank as well");
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::StatusOr<std::string> ExplainRank(const PlanArgs& args,
                                        const PlanJob& job) {
  plan::ExplainOptions explain;
  explain.link_bytes_per_second = args.link_gigabytes_per_second * 1e9;
  if (args.rank >= static_cast<int64_t>(job.targets.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", args.rank, " is not below the ",
                     job.targets.size(), " ranks of \"", job.to_text, "\""));
  }
  const manifest::Placement& target = job.targets[args.rank];
  WEFT_ASSIGN_OR_RETURN(const plan::CompactPlan compact,
                        PlanRank(job, args.rank));
  const std::string bytes = PlanFileBytes(compact);
  explain.file_bytes = static_cast<int64_t>(bytes.size());
  if (!args.out_path.empty()) {
    WEFT_RETURN_IF_ERROR(WriteText(args.out_path, bytes));
  }
  WEFT_ASSIGN_OR_RETURN(const plan::Plan built, ExpandRank(job, compact));
  return args.json ? plan::ExplainPlanJson(built, *job.index, target, explain)
                   : plan::ExplainPlan(built, *job.index, target, explain);
}

// A file, or what can only be the name of one; else a layout.
bool NamesFile(const std::string& text) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(text, ignored) ||
         (absl::EndsWith(text, ".json") && !absl::StrContains(text, '='));
}

absl::StatusOr<std::string> DiffPlans(const PlanArgs& args,
                                      const PlanJob& job) {
  if (NamesFile(args.diff)) {
    if (!args.diff_from.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--diff-from compares plans of two layouts and ",
                       args.diff, " is a file; leave out one of them"));
    }
    if (IsPlanFile(args.diff)) return DiffPlanFile(job, args.diff, args.json);
    return DiffCaptured(job, args.diff, args.json);
  }
  WEFT_ASSIGN_OR_RETURN(
      const PlanJob other,
      MakePlanJob(args.model,
                  args.diff_from.empty() ? args.from : args.diff_from,
                  args.diff.empty() ? args.to : args.diff));
  WEFT_ASSIGN_OR_RETURN(const FleetResult ours, PlanFleet(job, nullptr));
  WEFT_ASSIGN_OR_RETURN(const FleetResult theirs, PlanFleet(other, nullptr));
  return DiffFleets(job, ours, other, theirs, args.json);
}

absl::StatusOr<std::string> ReportFleet(const PlanArgs& args,
                                        const PlanJob& job) {
  WEFT_ASSIGN_OR_RETURN(
      FleetResult fleet,
      PlanFleet(job, args.fleet.simulate ? &args.fleet : nullptr));
  if (args.fleet.simulate) {
    WEFT_RETURN_IF_ERROR(SimulateFleet(args.fleet, fleet));
  }
  if (!args.fleet.html_path.empty()) {
    WEFT_RETURN_IF_ERROR(
        WriteText(args.fleet.html_path, FleetHtml(job, fleet)));
  }
  if (args.json) return FleetJson(job, fleet);
  return FormatFleet(job, fleet);
}

absl::StatusOr<std::string> PlanCommand(const PlanArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const PlanJob job,
                        MakePlanJob(args.model, args.from, args.to,
                                    /*with_stages=*/!NamesFile(args.diff) ||
                                        IsPlanFile(args.diff)));
  if (args.rank >= 0) return ExplainRank(args, job);
  if (!args.diff.empty() || !args.diff_from.empty()) {
    return DiffPlans(args, job);
  }
  if (args.tensor.empty()) return ReportFleet(args, job);
  WEFT_ASSIGN_OR_RETURN(const FleetResult fleet, PlanFleet(job, nullptr));
  return DescribeTensor(job, fleet.plans, args.tensor, args.svg_path,
                        args.json);
}

}  // namespace

void AddPlan(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<PlanArgs>();
  CLI::App* command = app.add_subcommand(
      "plan", "Plan a refit between two layouts and prove its coverage");
  command->footer(
      "examples:\n"
      "  weft plan --config config.json --from megatron:tp=2,pp=2 --to "
      "vllm:tp=4\n"
      "      all ranks in brief: bytes, runs, load, and what is left over\n"
      "  weft plan --checkpoint DIR --from fsdp:shard=8,names=hf --to "
      "vllm:tp=2,quant=fp8-channel\n"
      "      the same of a checkpoint's own dtypes and scales\n"
      "  weft plan ... --rank 1\n"
      "      one engine rank: peers, run lengths, tensors, conversions\n"
      "  weft plan ... --gpus-per-node 8 --trace refit.json\n"
      "  weft plan ... --topology cluster.yaml --html fleet.html\n"
      "      bounds by the links, the simulated refit, a timeline, a page\n"
      "  weft plan ... --explain model.layers.0.self_attn.k_proj.weight "
      "--svg k_proj.svg\n"
      "      where each box of one tensor comes from, and by which rule\n"
      "  weft plan ... --diff vllm:tp=8\n"
      "  weft plan ... --diff captured.json\n"
      "      what another layout changes; what an engine says it holds");
  CLI::Option_group* model = command->add_option_group("model");
  model->add_option("--config", args->model.config_path,
                    "config.json or a directory that holds one");
  model->add_option("--checkpoint", args->model.checkpoint_path,
                    "directory with config.json and safetensors, for the "
                    "dtypes and scales that it really has");
  model->require_option(1);
  command->add_option("--from", args->from, "layout of the trainer")
      ->required();
  command->add_option("--to", args->to, "layout of the engine")->required();
  AddReadingOptions(*command, *args);
  AddSimulationOptions(*command, args->fleet);
  command->add_option("--recipes", args->model.recipes_path,
                      "file or folder of further recipes");
  command->add_flag("--json", args->json, "print one JSON object");
  command->callback([args, command, exit_code] {
    const absl::Status checked = CheckOptions(*command);
    const absl::StatusOr<std::string> text =
        checked.ok() ? PlanCommand(*args) : checked;
    if (text.ok()) PrintLine(*text);
    *exit_code = text.ok() ? 0 : Fail("plan", text.status(), args->json);
  });
}

}  // namespace weft::apps
