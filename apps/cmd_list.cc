// weft versions, weft workers: what the catalog knows.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "catalog_view.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

struct ListArgs {
  std::string catalog = kDefaultCatalog;
  catalog::ClientAccess access;
  std::string model;
  std::vector<std::string> labels;
  bool json = false;
  double timeout_seconds = 10;

  base::Deadline deadline() const { return AfterSeconds(timeout_seconds); }
};

absl::Status PrintVersions(const ListArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        ConnectCatalog(args.catalog, args.access));
  WEFT_ASSIGN_OR_RETURN(const auto versions,
                        store->ListVersions(args.model, args.deadline()));
  WEFT_ASSIGN_OR_RETURN(const catalog::Labels labels, ParseLabels(args.labels));
  std::vector<std::vector<std::string>> rows;
  for (const catalog::VersionRecord& each : versions) {
    if (!catalog::HasLabels(each.labels, labels)) continue;
    const std::string state(catalog::ToString(each.state));
    if (args.json) {
      PrintLine(nlohmann::json({{"model", each.model},
                                {"version", catalog::ToString(each.version)},
                                {"state", state},
                                {"ranks_published", each.ranks_published},
                                {"ranks_expected", each.ranks_expected},
                                {"leases", each.leases},
                                {"labels", each.labels},
                                {"reason", each.reason}})
                    .dump());
    }
    rows.push_back(
        {each.model, catalog::ToString(each.version), state,
         absl::StrCat(each.ranks_published, "/", each.ranks_expected),
         absl::StrCat(each.leases), catalog::ToString(each.labels),
         each.reason});
  }
  if (!args.json) {
    PrintLine(FormatTable(
        {"MODEL", "VERSION", "STATE", "RANKS", "LEASES", "LABELS", "REASON"},
        rows));
  }
  return absl::OkStatus();
}

absl::Status PrintWorkers(const ListArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        ConnectCatalog(args.catalog, args.access));
  WEFT_ASSIGN_OR_RETURN(const auto workers,
                        store->ListWorkers(args.model, args.deadline()));
  std::vector<std::vector<std::string>> rows;
  for (const catalog::WorkerRecord& each : workers) {
    const std::string role(catalog::ToString(each.info.role));
    const std::string committed =
        each.committed.run_id.empty() ? "" : catalog::ToString(each.committed);
    if (args.json) {
      PrintLine(nlohmann::json({{"model", each.info.model},
                                {"role", role},
                                {"layout", each.info.layout_spec},
                                {"rank", each.info.rank},
                                {"num_ranks", each.info.num_ranks},
                                {"generation", each.generation},
                                {"alive", each.alive},
                                {"labels", each.info.labels},
                                {"owner", each.info.owner},
                                {"process_id", each.info.process_id},
                                {"committed", committed},
                                {"holds", HeldBy(each)},
                                {"fenced_reason", each.fenced_reason}})
                    .dump());
    }
    rows.push_back({each.info.model, role, each.info.layout_spec,
                    absl::StrCat(each.info.rank, "/", each.info.num_ranks),
                    each.alive ? "alive" : "dead", HeldBy(each),
                    each.fenced_reason});
  }
  if (!args.json) {
    PrintLine(FormatTable(
        {"MODEL", "ROLE", "LAYOUT", "RANK", "STATE", "HOLDS", "FENCED BECAUSE"},
        rows));
  }
  return absl::OkStatus();
}

void AddListing(CLI::App& app, const std::string& name,
                const std::string& description,
                absl::Status (*print)(const ListArgs&), int* exit_code) {
  auto args = std::make_shared<ListArgs>();
  CLI::App* command = app.add_subcommand(name, description);
  command->footer("example: weft " + name + " --catalog 127.0.0.1:6470");
  command->add_option("--catalog", args->catalog, "HOST:PORT of the catalog")
      ->capture_default_str();
  command->add_option("--model", args->model, "only this model");
  if (name == "versions") {
    command->add_option("--label", args->labels,
                        "NAME=VALUE: only versions that have it; may be given "
                        "again");
  }
  command->add_option("--timeout", args->timeout_seconds, "seconds to wait")
      ->capture_default_str();
  AddAccessOptions(*command, args->access);
  command->add_flag("--json", args->json, "one JSON object a line");
  command->callback([args, name, print, exit_code] {
    const absl::Status status = print(*args);
    *exit_code = status.ok() ? 0 : Fail(name, status, args->json);
  });
}

}  // namespace

void AddVersions(CLI::App& app, int* exit_code) {
  AddListing(app, "versions", "List the versions that the catalog knows",
             PrintVersions, exit_code);
}

void AddWorkers(CLI::App& app, int* exit_code) {
  AddListing(app, "workers", "List publishers and receivers", PrintWorkers,
             exit_code);
}

}  // namespace weft::apps
