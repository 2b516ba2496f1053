#include "catalog_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "console.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

using catalog::LeaseRecord;
using catalog::VersionRecord;
using catalog::VersionState;
using catalog::WorkerRecord;

constexpr std::size_t kMostAlive = 40;  // on one screen

bool IsPublisher(const WorkerRecord& worker) {
  return worker.info.role == catalog::Role::kPublisher;
}

bool IsReceiver(const WorkerRecord& worker) {
  return worker.info.role == catalog::Role::kReceiver;
}

std::string RoleOf(const WorkerRecord& worker) {
  return std::string(catalog::ToString(worker.info.role));
}

// Whether it lives and, for a receiver, may serve.
std::string ConditionOf(const WorkerRecord& worker) {
  if (!worker.alive) return worker.death_reason.empty() ? "registered" : "dead";
  if (!IsReceiver(worker)) return "alive";
  if (!worker.fenced_reason.empty()) return "fenced";
  return worker.committed.run_id.empty() ? "alive, no version yet" : "serves";
}

std::string WhyOf(const WorkerRecord& worker) {
  return worker.alive ? worker.fenced_reason : worker.death_reason;
}

std::string NameOf(const catalog::VersionId& version) {
  return version.run_id.empty() ? "" : catalog::ToString(version);
}

const WorkerRecord* FindWorker(const CatalogView& view,
                               const std::string& worker_id) {
  for (const WorkerRecord& worker : view.workers) {
    if (worker.worker_id == worker_id) return &worker;
  }
  return nullptr;
}

// "rank 0 (w17, 58 s left), rank 1 (w18, 31 s left) and 3 more".
std::string HoldersOf(const CatalogView& view, const VersionRecord& version) {
  constexpr std::size_t kMostNamed = 4;
  std::vector<std::string> names;
  std::size_t holders = 0;
  for (const LeaseRecord& lease : view.leases) {
    if (lease.model != version.model || lease.version != version.version) {
      continue;
    }
    if (++holders > kMostNamed) continue;
    const WorkerRecord* worker = FindWorker(view, lease.worker_id);
    const std::string held = absl::StrCat(
        lease.worker_id, ", ",
        std::chrono::floor<std::chrono::seconds>(lease.expires_in).count(),
        " s left");
    names.push_back(worker == nullptr ? held
                                      : absl::StrCat("rank ", worker->info.rank,
                                                     " (", held, ")"));
  }
  std::string text = absl::StrJoin(names, ", ");
  if (holders > kMostNamed) {
    absl::StrAppend(&text, " and ", holders - kMostNamed, " more");
  }
  return text;
}

// Why it is as it is; of what is READY although publishers died, that too.
std::string WhyOf(const CatalogView& view, const VersionRecord& version) {
  if (version.state != VersionState::kReady) return version.reason;
  std::set<int64_t> present;
  for (const WorkerRecord& worker : view.workers) {
    if (worker.info.model == version.model && IsPublisher(worker) &&
        worker.alive) {
      present.insert(worker.info.rank);
    }
  }
  const int64_t gone =
      version.ranks_expected - static_cast<int64_t>(present.size());
  if (gone <= 0) return version.reason;
  return absl::StrCat(version.reason, version.reason.empty() ? "" : "; ", gone,
                      " of ", version.ranks_expected,
                      " publishers gone, others hold what they held");
}

std::string FormatVersions(const CatalogView& view, const std::string& model,
                           std::size_t most_past) {
  std::vector<const VersionRecord*> gone;
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const VersionRecord& version) {
    rows.push_back(
        {catalog::ToString(version.version),
         std::string(catalog::ToString(version.state)),
         absl::StrCat(version.ranks_published, "/", version.ranks_expected),
         HoldersOf(view, version), WhyOf(view, version)});
  };
  for (const VersionRecord& version : view.versions) {
    if (version.model != model) continue;
    if (version.state == VersionState::kGone) {
      gone.push_back(&version);
    } else {
      add(version);
    }
  }
  const std::size_t left_out = gone.size() - std::min(gone.size(), most_past);
  std::for_each(gone.begin() + static_cast<std::ptrdiff_t>(left_out),
                gone.end(), [&](const VersionRecord* each) { add(*each); });
  std::string text =
      rows.empty()
          ? std::string("no version yet\n")
          : FormatTable({"VERSION", "STATE", "RANKS", "LEASED BY", "WHY"},
                        rows);
  if (left_out > 0) absl::StrAppend(&text, "and ", left_out, " more GONE\n");
  return text;
}

std::string FormatWorkers(const CatalogView& view, const std::string& model,
                          std::size_t most_past) {
  std::vector<const WorkerRecord*> alive;
  std::vector<const WorkerRecord*> dead;
  std::vector<std::vector<std::string>> rows;
  const auto add = [&rows](const WorkerRecord& worker) {
    rows.push_back({RoleOf(worker),
                    absl::StrCat(worker.info.rank, "/", worker.info.num_ranks),
                    worker.info.layout_spec, ConditionOf(worker),
                    HeldBy(worker),
                    absl::StrCat(worker.info.process_id, "@",
                                 worker.info.host_id.substr(0, 12)),
                    WhyOf(worker)});
  };
  for (const bool publishers : {true, false}) {
    for (const WorkerRecord& worker : view.workers) {
      if (worker.info.model != model || IsPublisher(worker) != publishers) {
        continue;
      }
      (worker.alive ? alive : dead).push_back(&worker);
    }
  }
  // Of many, those that a person must look at.
  const std::size_t most_alive = most_past == SIZE_MAX ? SIZE_MAX : kMostAlive;
  if (alive.size() > most_alive) {
    std::stable_partition(alive.begin(), alive.end(),
                          [](const WorkerRecord* worker) {
                            return !worker->fenced_reason.empty();
                          });
  }
  const std::size_t shown = std::min(alive.size(), most_alive);
  std::for_each(alive.begin(),
                alive.begin() + static_cast<std::ptrdiff_t>(shown),
                [&](const WorkerRecord* each) { add(*each); });
  std::sort(dead.begin(), dead.end(),
            [](const WorkerRecord* a, const WorkerRecord* b) {
              return a->generation < b->generation;
            });
  const std::size_t left_out = dead.size() - std::min(dead.size(), most_past);
  std::for_each(dead.begin() + static_cast<std::ptrdiff_t>(left_out),
                dead.end(), [&](const WorkerRecord* each) { add(*each); });
  std::string text = FormatTable(
      {"ROLE", "RANK", "LAYOUT", "STATE", "HOLDS", "PROCESS", "WHY"}, rows);
  if (shown < alive.size()) {
    absl::StrAppend(&text, "and ", alive.size() - shown, " more alive\n");
  }
  if (left_out > 0) absl::StrAppend(&text, "and ", left_out, " more dead\n");
  return text;
}

}  // namespace

std::string HeldBy(const WorkerRecord& worker) {
  return NameOf(IsReceiver(worker) ? worker.committed : worker.holds);
}

absl::StatusOr<CatalogView> LookAtCatalog(catalog::CatalogStore& store,
                                          const std::string& model,
                                          base::Deadline deadline) {
  CatalogView view;
  const auto start = std::chrono::steady_clock::now();
  WEFT_ASSIGN_OR_RETURN(view.versions, store.ListVersions(model, deadline));
  view.answer_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  WEFT_ASSIGN_OR_RETURN(view.workers, store.ListWorkers(model, deadline));
  WEFT_ASSIGN_OR_RETURN(view.leases, store.ListLeases(model, deadline));
  catalog::EventQuery query;
  query.max_events = 1;
  WEFT_ASSIGN_OR_RETURN(const catalog::EventPage page,
                        store.ReadEvents(query, deadline));
  view.log_id = page.log_id;
  view.events = page.end - 1;
  return view;
}

nlohmann::ordered_json ToJson(const CatalogView& view) {
  std::set<std::string> names;
  for (const VersionRecord& each : view.versions) names.insert(each.model);
  for (const WorkerRecord& each : view.workers) names.insert(each.info.model);
  nlohmann::ordered_json json;
  json["schema"] = 1;
  json["catalog"] = {{"log", view.log_id},
                     {"events", view.events},
                     {"answer_seconds", view.answer_seconds}};
  json["models"] = nlohmann::ordered_json::array();
  for (const std::string& name : names) {
    nlohmann::ordered_json model;
    model["model"] = name;
    model["versions"] = nlohmann::ordered_json::array();
    for (const VersionRecord& each : view.versions) {
      if (each.model != name) continue;
      model["versions"].push_back(
          {{"version", catalog::ToString(each.version)},
           {"state", std::string(catalog::ToString(each.state))},
           {"ranks_published", each.ranks_published},
           {"ranks_expected", each.ranks_expected},
           {"leases", each.leases},
           {"reason", each.reason}});
    }
    model["workers"] = nlohmann::ordered_json::array();
    for (const WorkerRecord& each : view.workers) {
      if (each.info.model != name) continue;
      model["workers"].push_back({{"worker", each.worker_id},
                                  {"generation", each.generation},
                                  {"role", RoleOf(each)},
                                  {"layout", each.info.layout_spec},
                                  {"rank", each.info.rank},
                                  {"num_ranks", each.info.num_ranks},
                                  {"host", each.info.host_id},
                                  {"process_id", each.info.process_id},
                                  {"alive", each.alive},
                                  {"state", ConditionOf(each)},
                                  {"committed", NameOf(each.committed)},
                                  {"holds", HeldBy(each)},
                                  {"fenced_reason", each.fenced_reason},
                                  {"death_reason", each.death_reason}});
    }
    model["leases"] = nlohmann::ordered_json::array();
    for (const LeaseRecord& each : view.leases) {
      if (each.model != name) continue;
      model["leases"].push_back(
          {{"lease", each.lease_id},
           {"version", catalog::ToString(each.version)},
           {"worker", each.worker_id},
           {"expires_in_seconds",
            std::chrono::duration<double>(each.expires_in).count()}});
    }
    json["models"].push_back(std::move(model));
  }
  return json;
}

std::string FormatView(const CatalogView& view, const std::string& address,
                       std::size_t most_past) {
  std::set<std::string> models;
  std::size_t alive = 0;
  std::size_t fenced = 0;
  for (const VersionRecord& each : view.versions) models.insert(each.model);
  for (const WorkerRecord& each : view.workers) {
    models.insert(each.info.model);
    alive += each.alive ? 1 : 0;
    fenced += each.alive && !each.fenced_reason.empty() ? 1 : 0;
  }
  std::string text = fmt::format(
      "catalog {} answers in {}; {} workers alive, {} of them fenced; {} "
      "leases; {} events\n",
      address, HumanSeconds(view.answer_seconds), alive, fenced,
      view.leases.size(), view.events);
  if (models.empty()) text += "\nno model yet\n";
  for (const std::string& model : models) {
    text += fmt::format("\n{}\n{}\n{}", model,
                        FormatVersions(view, model, most_past),
                        FormatWorkers(view, model, most_past));
  }
  return text;
}

}  // namespace weft::apps
