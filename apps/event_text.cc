#include "event_text.h"

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace weft::apps {
namespace {

using catalog::Event;
using catalog::EventKind;

bool IsOfVersion(EventKind kind) { return kind >= EventKind::kShardPublished; }

nlohmann::ordered_json Begin(uint64_t log_id, const std::string& event) {
  nlohmann::ordered_json json;
  json["schema"] = kEventSchema;
  json["log"] = log_id;
  json["event"] = event;
  return json;
}

}  // namespace

std::string FormatTime(int64_t unix_ns) {
  const std::time_t seconds = unix_ns / 1'000'000'000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
                     parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec,
                     unix_ns % 1'000'000'000 / 1000);
}

std::string NameWorker(const Event& event) {
  if (event.worker_id.empty()) return "";
  return absl::StrCat(std::string(catalog::ToString(event.role)), " rank ",
                      event.rank, " (", event.worker_id, ")");
}

std::string ToJsonLine(const Event& event, uint64_t log_id) {
  nlohmann::ordered_json json =
      Begin(log_id, std::string(catalog::ToString(event.kind)));
  json["number"] = event.number;
  json["time"] = FormatTime(event.unix_ns);
  json["unix_ns"] = event.unix_ns;
  json["model"] = event.model;
  if (!event.worker_id.empty()) {
    json["worker"] = event.worker_id;
    json["generation"] = event.generation;
    json["role"] = std::string(catalog::ToString(event.role));
    json["rank"] = event.rank;
  }
  if (!event.version.run_id.empty()) {
    if (IsOfVersion(event.kind)) {
      json["version"] = catalog::ToString(event.version);
    }
    json["run"] = event.version.run_id;
    json["epoch"] = event.version.epoch;
  }
  if (IsOfVersion(event.kind) && event.ranks_expected > 0) {
    json["ranks_published"] = event.ranks_published;
  }
  if (event.ranks_expected > 0) json["ranks_expected"] = event.ranks_expected;
  if (!event.lease_id.empty()) json["lease"] = event.lease_id;
  if (!event.reason.empty()) json["reason"] = event.reason;
  return json.dump();
}

std::string MissedJsonLine(const catalog::EventPage& page) {
  nlohmann::ordered_json json = Begin(page.log_id, "missed");
  json["count"] = page.missed;
  return json.dump();
}

std::string RestartedJsonLine(const catalog::EventPage& page) {
  return Begin(page.log_id, "log-restarted").dump();
}

std::string FormatEvent(const Event& event) {
  std::string what = NameWorker(event);
  const auto add = [&what](const std::string& part) {
    if (part.empty()) return;
    if (!what.empty()) what += ", ";
    what += part;
  };
  if (event.ranks_expected > 0 && IsOfVersion(event.kind)) {
    add(absl::StrCat(event.ranks_published, " of ", event.ranks_expected,
                     " ranks"));
  }
  if (!event.lease_id.empty()) add(absl::StrCat("lease ", event.lease_id));
  if (!event.reason.empty()) what += absl::StrCat(": ", event.reason);
  std::string subject = event.model;
  if (!event.version.run_id.empty()) {
    subject += IsOfVersion(event.kind) ? " " + catalog::ToString(event.version)
                                       : absl::StrCat(" ", event.version.run_id,
                                                      ":", event.version.epoch);
  }
  return fmt::format("{} {:>5} {:<17} {}  {}", FormatTime(event.unix_ns),
                     event.number, std::string(catalog::ToString(event.kind)),
                     subject, what);
}

std::string FormatMissed(const catalog::EventPage& page) {
  return absl::StrCat("... ", page.missed,
                      " events are not kept any more: this reader came late");
}

}  // namespace weft::apps
