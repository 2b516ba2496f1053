// weft plan: prints and proves a plan before anything moves. Needs a config,
// no checkpoint and no process.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
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
  bool json = false;
};

std::string FormatFleet(const PlanJob& job,
                        const std::vector<plan::Plan>& plans,
                        double seconds_max) {
  std::vector<std::vector<std::string>> rows;
  for (const plan::Plan& each : plans) {
    rows.push_back(
        {absl::StrCat(each.target_rank), absl::StrCat(each.peers.size()),
         absl::StrCat(each.totals.moves), absl::StrCat(each.totals.runs),
         HumanBytes(each.totals.dst_bytes),
         HumanBytes(each.totals.zero_fill_bytes),
         HumanBytes(each.totals.shortest_run_bytes)});
  }
  const plan::FleetLoad load = plan::MeasureFleetLoad(plans, *job.index);
  return absl::StrCat(
      "plan of ", job.model_name, ": ", job.from_text, " (", job.sources.size(),
      " ranks) -> ", job.to_text, " (", plans.size(), " ranks)\n\n",
      FormatTable({"RANK", "PEERS", "MOVES", "RUNS", "BYTES", "ZERO-FILLED",
                   "SHORTEST RUN"},
                  rows),
      "\ncoverage: every destination element of every rank is written exactly "
      "once (checked)\n",
      fmt::format("sent {}, unique {}; load per source max/mean {:.2f}\n",
                  HumanBytes(load.sent_bytes), HumanBytes(load.unique_bytes),
                  load.max_over_mean),
      fmt::format("planned in at most {} a rank", HumanSeconds(seconds_max)));
}

nlohmann::json FleetJson(const PlanJob& job,
                         const std::vector<plan::Plan>& plans,
                         double seconds_max) {
  const plan::FleetLoad load = plan::MeasureFleetLoad(plans, *job.index);
  nlohmann::json json = {{"from", job.from_text},
                         {"to", job.to_text},
                         {"coverage", "exact"},
                         {"sent_bytes", load.sent_bytes},
                         {"unique_bytes", load.unique_bytes},
                         {"max_over_mean", load.max_over_mean},
                         {"seconds_max_per_rank", seconds_max}};
  for (const auto& source : load.sources) {
    json["sources"].push_back({{"rank", source.rank}, {"bytes", source.bytes}});
  }
  for (size_t r = 0; r < plans.size(); ++r) {
    json["ranks"].push_back(nlohmann::json::parse(
        plan::ExplainPlanJson(plans[r], *job.index, job.targets[r], {})));
  }
  return json;
}

absl::Status PlanCommand(const PlanArgs& args) {
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
  std::vector<plan::Plan> plans;
  double seconds_max = 0;
  for (size_t r = 0; r < job.targets.size(); ++r) {
    const auto start = std::chrono::steady_clock::now();
    WEFT_ASSIGN_OR_RETURN(plan::Plan built,
                          PlanRank(job, static_cast<int64_t>(r)));
    seconds_max = std::max(
        seconds_max,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
    plans.push_back(std::move(built));
  }
  PrintLine(args.json ? FleetJson(job, plans, seconds_max).dump()
                      : FormatFleet(job, plans, seconds_max));
  return absl::OkStatus();
}

}  // namespace

void AddPlan(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<PlanArgs>();
  CLI::App* command = app.add_subcommand(
      "plan", "Plan a refit between two layouts and prove its coverage");
  command->footer(
      "example: weft plan --config config.json --from megatron:tp=2,pp=2 "
      "--to vllm:tp=4 --rank 1");
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
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_flag("--json", args->json, "print one JSON object");
  command->callback([args, exit_code] {
    const absl::Status status = PlanCommand(*args);
    *exit_code = status.ok() ? 0 : Fail("plan", status, args->json);
  });
}

}  // namespace weft::apps
