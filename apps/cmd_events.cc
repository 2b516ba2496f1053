// weft events: what the catalog did, one line a change.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "event_text.h"
#include "option_checks.h"
#include "weft/base/status.h"
#include "weft/catalog/event.h"

namespace weft::apps {
namespace {

// How late ctrl-c is noticed.
constexpr std::chrono::milliseconds kNoticeStop(300);

struct EventsArgs {
  std::string catalog = kDefaultCatalog;
  catalog::ClientAccess access;
  std::string model;
  std::optional<uint64_t> since;
  bool follow = false;
  bool json = false;
  double timeout_seconds = 10;
};

void PrintPage(const catalog::EventPage& page, bool json) {
  if (page.restarted) {
    PrintLine(json ? RestartedJsonLine(page)
                   : "... the catalog began a new log of events");
  }
  if (page.missed > 0) {
    PrintLine(json ? MissedJsonLine(page) : FormatMissed(page));
  }
  for (const catalog::Event& event : page.events) {
    PrintLine(json ? ToJsonLine(event, page.log_id) : FormatEvent(event));
  }
}

absl::Status Events(const EventsArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        ConnectCatalog(args.catalog, args.access));
  catalog::EventQuery query;
  query.from = args.since ? *args.since + 1 : 0;
  query.model = args.model;
  while (!StopSignalCame()) {
    if (args.follow) query.wait_until = base::Deadline::After(kNoticeStop);
    WEFT_ASSIGN_OR_RETURN(
        const catalog::EventPage page,
        store->ReadEvents(query, AfterSeconds(args.timeout_seconds)));
    PrintPage(page, args.json);
    WEFT_RETURN_IF_ERROR(CheckPrinted());
    const bool at_end =
        page.events.empty() && page.missed == 0 && page.next == query.from;
    if (at_end && !args.follow) break;
    query.from = page.next;
    query.log_id = page.log_id;
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvents(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<EventsArgs>();
  CLI::App* command = app.add_subcommand(
      "events", "Print what the catalog did, one line a change");
  command->footer(
      "example: weft events --catalog 127.0.0.1:6470 --follow\n"
      "A run of the real code is checked by scripts/check_events.py");
  command->add_option("--catalog", args->catalog, "HOST:PORT of the catalog")
      ->capture_default_str();
  command->add_option("--model", args->model, "only this model");
  command
      ->add_option("--since", args->since,
                   "only events after this number; 0: from the first, or "
                   "how many of them are not kept any more")
      ->check(NotBelowZero());
  command->add_flag("--follow", args->follow, "go on until ctrl-c");
  command
      ->add_option("--timeout", args->timeout_seconds, "seconds for an answer")
      ->capture_default_str();
  AddAccessOptions(*command, args->access);
  command->add_flag("--json", args->json, "one JSON object a line");
  command->callback([args, exit_code] {
    BlockStopSignals();
    const absl::Status status = Events(*args);
    *exit_code = status.ok() ? 0 : Fail("events", status, args->json);
  });
}

}  // namespace weft::apps
