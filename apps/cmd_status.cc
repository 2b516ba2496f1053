// weft status: one screen of what the catalog knows, live with --watch.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "catalog_view.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "event_text.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

constexpr std::size_t kMostPast = 3;
// Between two screens, at least and at most: leases expire without an event.
constexpr std::chrono::milliseconds kNoticeStop(300);
constexpr std::chrono::seconds kRedraw(2);

struct StatusArgs {
  std::string catalog = kDefaultCatalog;
  catalog::ClientAccess access;
  std::string model;
  bool watch = false;
  bool all = false;
  bool json = false;
  double timeout_seconds = 10;

  base::Deadline deadline() const { return AfterSeconds(timeout_seconds); }
};

std::string Describe(const StatusArgs& args, const CatalogView& view) {
  if (args.json) return ToJson(view).dump();
  return FormatView(view, args.catalog, args.all ? SIZE_MAX : kMostPast);
}

// The screen again after each change, or the changes where there is no screen.
absl::Status Watch(const StatusArgs& args, catalog::CatalogStore& store,
                   CatalogView view) {
  const bool draws = isatty(STDOUT_FILENO) == 1 && !args.json;
  PrintLine(draws ? "\x1b[H\x1b[2J" + Describe(args, view)
                  : Describe(args, view));
  catalog::EventQuery query;
  query.from = view.events + 1;
  query.log_id = view.log_id;
  query.model = args.model;
  auto drawn = std::chrono::steady_clock::now();
  while (!StopSignalCame()) {
    WEFT_RETURN_IF_ERROR(CheckPrinted());
    query.wait_until = base::Deadline::After(kNoticeStop);
    WEFT_ASSIGN_OR_RETURN(const catalog::EventPage page,
                          store.ReadEvents(query, args.deadline()));
    query.from = page.next;
    query.log_id = page.log_id;
    for (const catalog::Event& event : page.events) {
      if (draws) break;
      PrintLine(args.json ? ToJsonLine(event, page.log_id)
                          : FormatEvent(event));
    }
    const auto now = std::chrono::steady_clock::now();
    if (!draws || (page.events.empty() && now < drawn + kRedraw)) continue;
    drawn = now;
    WEFT_ASSIGN_OR_RETURN(view,
                          LookAtCatalog(store, args.model, args.deadline()));
    PrintLine("\x1b[H\x1b[2J" + Describe(args, view));
  }
  return absl::OkStatus();
}

absl::Status Status(const StatusArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        ConnectCatalog(args.catalog, args.access));
  WEFT_ASSIGN_OR_RETURN(CatalogView view,
                        LookAtCatalog(*store, args.model, args.deadline()));
  if (args.watch) return Watch(args, *store, std::move(view));
  PrintLine(Describe(args, view));
  return absl::OkStatus();
}

}  // namespace

void AddStatus(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<StatusArgs>();
  CLI::App* command = app.add_subcommand(
      "status", "Show versions, leases and workers of a catalog on one screen");
  command->footer(
      "example: weft status --catalog 127.0.0.1:6470 --watch\n"
      "Without a terminal --watch prints the screen once, then a line a "
      "change");
  command->add_option("--catalog", args->catalog, "HOST:PORT of the catalog")
      ->capture_default_str();
  command->add_option("--model", args->model, "only this model");
  command->add_flag("--watch", args->watch, "live, until ctrl-c");
  command->add_flag("--all", args->all,
                    "all versions that are GONE and workers that are dead, "
                    "not only the newest three");
  command
      ->add_option("--timeout", args->timeout_seconds, "seconds for an answer")
      ->capture_default_str();
  AddAccessOptions(*command, args->access);
  command->add_flag("--json", args->json, "one JSON object");
  command->callback([args, exit_code] {
    BlockStopSignals();
    const absl::Status status = Status(*args);
    *exit_code = status.ok() ? 0 : Fail("status", status, args->json);
  });
}

}  // namespace weft::apps
