#include "chaos_soak.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "console.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/state/event_log.h"

namespace weft::apps {
namespace {

using Member = ChaosFleet::Member;
using std::chrono::milliseconds;

// Allocators and libraries keep this much for themselves, once.
constexpr int64_t kSlackBytes = int64_t{3} << 20;
// A catalog's log of events fills up to here (350 bytes each were measured) and
// is cut from then on.
constexpr int64_t kEventLogBytes =
    int64_t{catalog::EventLog::kEventsKept} * 400;
constexpr int64_t kSlackCount = 2;
constexpr int64_t kRefitsBetweenFaults = 8;
// Before anything is measured: pools of threads and memory fill.
constexpr int64_t kWarmRefits = 100;
constexpr size_t kLastWords = 5;

ProcessUse Mean(const std::vector<ProcessUse>& samples, size_t begin,
                size_t end) {
  ProcessUse sum;
  for (size_t i = begin; i < end; ++i) {
    sum.resident_bytes += samples[i].resident_bytes;
    sum.shared_bytes += samples[i].shared_bytes;
    sum.descriptors += samples[i].descriptors;
    sum.threads += samples[i].threads;
  }
  const auto count = static_cast<int64_t>(std::max<size_t>(1, end - begin));
  return {sum.resident_bytes / count, sum.shared_bytes / count,
          sum.descriptors / count, sum.threads / count};
}

bool IsFlat(const ProcessUse& first, const ProcessUse& last, bool is_catalog) {
  // A burst of calls comes to a catalog when workers move to it.
  const int64_t pool = is_catalog ? catalog::kWaitingThreads : 0;
  const int64_t log_bytes = is_catalog ? kEventLogBytes : 0;
  return last.resident_bytes <=
             first.resident_bytes + kSlackBytes + log_bytes &&
         last.shared_bytes <= first.shared_bytes + kSlackBytes &&
         last.descriptors <= first.descriptors + kSlackCount &&
         last.threads <= first.threads + kSlackCount + pool;
}

class Soak {
 public:
  Soak(ChaosFleet& fleet, int64_t refits, milliseconds patience,
       std::mt19937_64& random)
      : fleet_(fleet), refits_(refits), patience_(patience), random_(random) {
    for (const ChaosKind kind : {ChaosKind::kEngine, ChaosKind::kTrainer}) {
      const std::vector<Member*> members = fleet.Members(kind);
      staying_.push_back(members[0]);
      moving_.insert(moving_.end(), members.begin() + 1, members.end());
    }
    for (const ChaosKind kind : {ChaosKind::kCatalog, ChaosKind::kRedis}) {
      for (Member* const member : fleet.Members(kind)) {
        staying_.push_back(member);
      }
    }
  }

  absl::StatusOr<SoakReport> Run() {
    const auto begin = ChaosFleet::Clock::now();
    for (const Member* const member : staying_) {
      lives_[member] = member->life;
    }
    WEFT_RETURN_IF_ERROR(AllStayed());
    const int64_t commits = fleet_.commits();
    const int64_t warm = staying_[0]->commits + kWarmRefits;
    const int64_t target = warm + refits_;
    while (staying_[0]->commits < target) {
      WEFT_RETURN_IF_ERROR(Sample(staying_[0]->commits >= warm));
      Disturb();
      const int64_t next = staying_[0]->commits + kRefitsBetweenFaults;
      if (!fleet_.Live(patience_,
                       [&] { return staying_[0]->commits >= next; })) {
        return absl::DeadlineExceededError(
            absl::StrCat("engine 0 has not refitted ", kRefitsBetweenFaults,
                         " times in ", patience_.count() / 1000, " s after ",
                         report_.faults + report_.joins, " disturbances:\n",
                         fleet_.Describe()));
      }
      WEFT_RETURN_IF_ERROR(AllStayed());
      // The log of what went well is of no use, and grows.
      if (fleet_.faults().torn + fleet_.faults().hangs == 0) {
        fleet_.log().clear();
      }
    }
    report_.refits = refits_;
    report_.commits = fleet_.commits() - commits;
    report_.torn = fleet_.faults().torn;
    report_.hangs = fleet_.faults().hangs;
    report_.seconds =
        std::chrono::duration<double>(ChaosFleet::Clock::now() - begin).count();
    Compare();
    return std::move(report_);
  }

 private:
  absl::Status AllStayed() {
    for (Member* const member : staying_) {
      if (member->process != nullptr && member->life == lives_[member]) {
        continue;
      }
      return absl::InternalError(
          absl::StrCat(member->label, " should have stayed and has ended:\n",
                       LastOf(*member)));
    }
    return absl::OkStatus();
  }

  // What was said of it.
  std::string LastOf(const Member& member) {
    std::vector<std::string> lines;
    for (const std::string& line : fleet_.log()) {
      if (absl::StrContains(line, member.label)) lines.push_back(line);
    }
    const size_t kept = std::min(lines.size(), kLastWords);
    return absl::StrJoin(lines.end() - static_cast<ptrdiff_t>(kept),
                         lines.end(), "\n");
  }

  // Of those that stay, if `measured`.
  absl::Status Sample(bool measured) {
    for (Member* const member : staying_) {
      WEFT_ASSIGN_OR_RETURN(const ProcessUse use,
                            ReadProcessUse(member->process->pid()));
      if (measured) samples_[member].push_back(use);
    }
    return absl::OkStatus();
  }

  void Disturb() {
    const milliseconds lasts(20 + random_() % 300);
    const auto pick = [this](const std::vector<Member*>& from) -> Member& {
      return *from[random_() % from.size()];
    };
    const auto last = [&] { fleet_.Live(lasts, [] { return false; }); };
    switch (random_() % 5) {
      case 0:
      case 1: {
        Member& member = pick(moving_);
        const bool orderly =
            member.kind == ChaosKind::kEngine && random_() % 2 == 0;
        orderly ? fleet_.Leave(member) : fleet_.Kill(member);
        last();
        if (orderly) {
          fleet_.Live(patience_, [&] { return member.process == nullptr; });
        }
        fleet_.StartAgain(member);
        ++report_.joins;
        return;
      }
      case 2: {
        Member& member = pick(staying_);
        fleet_.Stop(member, true);
        last();
        fleet_.Stop(member, false);
        break;
      }
      case 3: {
        Member& member = pick(staying_);
        fleet_.Throttle(member, true);
        last();
        fleet_.Throttle(member, false);
        break;
      }
      default: {
        Member& member = pick(staying_);
        ChaosFleet::SetLinks(member, ChaosRelay::Mode::kSilent);
        last();
        ChaosFleet::SetLinks(member, ChaosRelay::Mode::kPass);
      }
    }
    ++report_.faults;
  }

  void Compare() {
    for (const Member* const member : staying_) {
      const std::vector<ProcessUse>& samples = samples_[member];
      const size_t tenth = std::max<size_t>(1, samples.size() / 10);
      SoakRow row;
      row.process = member->label;
      row.first = Mean(samples, 0, tenth);
      row.last = Mean(samples, samples.size() - tenth, samples.size());
      row.flat = IsFlat(row.first, row.last,
                        absl::StartsWith(member->label, "catalog"));
      report_.rows.push_back(std::move(row));
    }
  }

  ChaosFleet& fleet_;
  const int64_t refits_;
  const milliseconds patience_;
  std::mt19937_64& random_;
  std::vector<Member*> staying_;  // the first engine, the first trainer, ...
  std::vector<Member*> moving_;
  std::map<const Member*, int> lives_;  // of those that stay
  std::map<const Member*, std::vector<ProcessUse>> samples_;
  SoakReport report_;
};

nlohmann::json ToJson(const ProcessUse& use) {
  return {{"resident_bytes", use.resident_bytes},
          {"shared_bytes", use.shared_bytes},
          {"descriptors", use.descriptors},
          {"threads", use.threads}};
}

}  // namespace

absl::StatusOr<ProcessUse> ReadProcessUse(pid_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid);
  ProcessUse use;
  std::ifstream status(folder + "/status");
  std::string line;
  while (std::getline(status, line)) {
    if (absl::StartsWith(line, "VmRSS:")) {
      use.resident_bytes = std::stoll(line.substr(6)) << 10;
    } else if (absl::StartsWith(line, "Threads:")) {
      use.threads = std::stoll(line.substr(8));
    }
  }
  std::ifstream maps(folder + "/maps");
  while (std::getline(maps, line)) {
    const size_t dash = line.find('-');
    const size_t space = line.find(' ');
    // "begin-end rwxs ...": the fourth letter says whether it is shared.
    if (space == std::string::npos || line[space + 4] != 's') continue;
    use.shared_bytes += static_cast<int64_t>(
        std::stoull(line.substr(dash + 1, space - dash - 1), nullptr, 16) -
        std::stoull(line.substr(0, dash), nullptr, 16));
  }
  std::error_code error;
  for (const auto& each :
       std::filesystem::directory_iterator(folder + "/fd", error)) {
    static_cast<void>(each), ++use.descriptors;
  }
  if (use.threads == 0) {
    return absl::NotFoundError(absl::StrCat("no process ", pid));
  }
  return use;
}

bool SoakReport::ok() const {
  return torn == 0 && hangs == 0 && rules_broken.empty() &&
         std::all_of(rows.begin(), rows.end(),
                     [](const SoakRow& row) { return row.flat; });
}

absl::StatusOr<SoakReport> RunSoak(ChaosFleet& fleet, int64_t refits,
                                   milliseconds patience,
                                   std::mt19937_64& random) {
  return Soak(fleet, refits, patience, random).Run();
}

std::string FormatSoak(const SoakReport& report) {
  std::vector<std::vector<std::string>> rows;
  const auto both = [](const std::string& first, const std::string& last) {
    return absl::StrCat(first, " -> ", last);
  };
  for (const SoakRow& row : report.rows) {
    rows.push_back(
        {row.process,
         both(HumanBytes(row.first.resident_bytes),
              HumanBytes(row.last.resident_bytes)),
         both(HumanBytes(row.first.shared_bytes),
              HumanBytes(row.last.shared_bytes)),
         both(absl::StrCat(row.first.descriptors),
              absl::StrCat(row.last.descriptors)),
         both(absl::StrCat(row.first.threads), absl::StrCat(row.last.threads)),
         row.flat ? "flat" : "GROWS"});
  }
  return absl::StrCat(
      FormatTable(
          {"PROCESS", "RESIDENT", "SHARED", "DESCRIPTORS", "THREADS", ""},
          rows),
      "\n", report.refits, " refits of engine 0 in ",
      HumanSeconds(report.seconds), ", ", report.joins,
      " ranks left and joined, ", report.faults, " faults; ", report.commits,
      " commits of all engines read: torn weights served ", report.torn,
      ", hangs ", report.hangs, ", rules broken in event logs ",
      report.rules_broken.size(), report.rules_broken.empty() ? "" : ":\n",
      absl::StrJoin(report.rules_broken, "\n"));
}

nlohmann::json ToJson(const SoakReport& report) {
  nlohmann::json rows = nlohmann::json::array();
  for (const SoakRow& row : report.rows) {
    rows.push_back({{"process", row.process},
                    {"first", ToJson(row.first)},
                    {"last", ToJson(row.last)},
                    {"flat", row.flat}});
  }
  return {{"event", "soak"},           {"refits", report.refits},
          {"joins", report.joins},     {"faults", report.faults},
          {"commits", report.commits}, {"torn", report.torn},
          {"hangs", report.hangs},     {"rules_broken", report.rules_broken},
          {"seconds", report.seconds}, {"processes", rows},
          {"ok", report.ok()}};
}

}  // namespace weft::apps
