#include "chaos_trial.h"

#include <algorithm>
#include <chrono>
#include <future>

#include "absl/strings/str_cat.h"
#include "chaos_events.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

using Member = ChaosFleet::Member;
using Mode = ChaosRelay::Mode;
using std::chrono::milliseconds;

// Ranks come by every step several times a second, but not while the fleet
// heals from a trial before.
constexpr milliseconds kToReachStep(5000);
constexpr milliseconds kToCheckEvents(120'000);

struct StepRow {
  const char* name;
  bool trainer;
  int most_skipped;  // passes in one go of the protocol
};
constexpr StepRow kSteps[] = {
    {"publish.register.before", true, 0},
    {"publish.register.after", true, 0},
    {"begin.before", true, 0},
    {"begin.after", true, 0},
    {"mutate", true, 0},
    {"digest", true, 8},
    {"publish.before", true, 0},
    {"publish.after", true, 0},
    {"receive.register.before", false, 0},
    {"receive.register.after", false, 0},
    {"lease.before", false, 0},
    {"lease.after", false, 0},
    {"transfer", false, 4},
    {"verify", false, 8},
    {"verified", false, 0},
    {"commit.before", false, 0},
    {"commit.after", false, 0},
};

const StepRow& RowOf(const std::string& step) {
  return *std::find_if(std::begin(kSteps), std::end(kSteps),
                       [&](const StepRow& row) { return step == row.name; });
}

// What the rank itself calls it.
std::string PhaseOf(const std::string& step) {
  if (step == "verify") return "digest";
  const size_t at = step.find("register");
  return at == std::string::npos ? step : step.substr(at);
}

bool IsRegister(const std::string& step) {
  return step.find("register") != std::string::npos;
}

int Pick(std::mt19937_64& random, int count) {
  return static_cast<int>(random() % static_cast<uint64_t>(count));
}

Member& PickOne(std::mt19937_64& random, const std::vector<Member*>& from) {
  return *from[static_cast<size_t>(
      Pick(random, static_cast<int>(from.size())))];
}

// Half of the time whoever stands at the step, if it is of that kind.
Member& PickTarget(ChaosKind kind, Member& actor, std::mt19937_64& random,
                   ChaosFleet& fleet) {
  const bool itself = Pick(random, 2) == 0;
  if (actor.kind == kind && itself) return actor;
  return PickOne(random, fleet.Members(kind));
}

// How long a fault lasts: most are shorter than a refit may take, some longer,
// a few longer than the catalog waits for a sign of life.
milliseconds DurationOf(std::mt19937_64& random) {
  const int kind = Pick(random, 20);
  if (kind < 12) return milliseconds(20 + Pick(random, 400));
  if (kind < 19) return milliseconds(1000 + Pick(random, 1500));
  return milliseconds(5000 + Pick(random, 2000));
}

class Trial {
 public:
  Trial(const ChaosCell& cell, std::mt19937_64& random,
        const ChaosLimits& limits, ChaosFleet& fleet)
      : cell_(cell), random_(random), limits_(limits), fleet_(fleet) {}

  absl::StatusOr<ChaosOutcome> Run() {
    ChaosOutcome outcome;
    outcome.cell = cell_;
    const ChaosFaults before = fleet_.faults();
    const int64_t commits = fleet_.commits();
    const int64_t from_copies = fleet_.commits_from_copies();
    const int64_t restarts = fleet_.restarts();
    fleet_.log().clear();
    fleet_.Log(absl::StrCat("=== ", cell_.fault, " of ", cell_.role, " at ",
                            cell_.step));
    Member& actor = PickOne(random_, fleet_.Members(IsTrainerStep(cell_.step)
                                                        ? ChaosKind::kTrainer
                                                        : ChaosKind::kEngine));
    Member& target = TargetOf(actor);
    outcome.reached = BringTo(actor);
    const auto begin = ChaosFleet::Clock::now();
    const milliseconds lasts = DurationOf(random_);
    const bool next_epoch = target.kind == ChaosKind::kTrainer &&
                            cell_.fault == "kill" && cell_.role != "link" &&
                            Pick(random_, 2) == 0;
    fleet_.Log(absl::StrCat("fault: ", cell_.fault, " of ", cell_.role, " (",
                            target.label, ") for ", lasts.count(), " ms"));
    Strike(target, true);
    // Some stand at the step while the fault lasts, others go on into it.
    const bool goes_on = Pick(random_, 3) != 0;
    if (goes_on) fleet_.Resume(actor);
    fleet_.Live(lasts, [] { return false; });
    Strike(target, false);
    fleet_.Resume(actor);
    if (next_epoch) fleet_.NextEpoch();
    Heal(outcome, begin);
    outcome.commits = fleet_.commits() - commits;
    outcome.commits_from_copies = fleet_.commits_from_copies() - from_copies;
    outcome.restarts = fleet_.restarts() - restarts;
    outcome.torn = fleet_.faults().torn - before.torn;
    outcome.hangs = fleet_.faults().hangs - before.hangs;
    WEFT_ASSIGN_OR_RETURN(outcome.rules_broken, CheckRules());
    if (!outcome.ok()) outcome.log = fleet_.log();
    return outcome;
  }

 private:
  Member& TargetOf(Member& actor) {
    if (cell_.role == "publisher" || cell_.role == "replica") {
      return PickTarget(ChaosKind::kTrainer, actor, random_, fleet_);
    }
    if (cell_.role == "receiver") {
      return PickTarget(ChaosKind::kEngine, actor, random_, fleet_);
    }
    if (cell_.role == "catalog") {
      return PickOne(random_, fleet_.Members(ChaosKind::kCatalog));
    }
    if (cell_.role == "redis") {
      return *fleet_.Members(ChaosKind::kRedis)[0];
    }
    return actor;  // its links
  }

  bool BringTo(Member& actor) {
    const int skip = Pick(random_, RowOf(cell_.step).most_skipped + 1);
    const std::string phase = PhaseOf(cell_.step);
    if (IsRegister(cell_.step)) {
      fleet_.Restart(actor, phase);
    } else {
      fleet_.Park(actor, phase, skip);
    }
    return fleet_.Live(kToReachStep, [&actor] { return actor.parked; });
  }

  // Begins or ends the fault.
  void Strike(Member& target, bool begins) {
    const bool whole_server =
        target.kind == ChaosKind::kCatalog || target.kind == ChaosKind::kRedis;
    const auto set_links = [&](Mode mode) {
      if (!begins) mode = Mode::kPass;
      if (whole_server) {
        fleet_.SetLinksTo(target, mode);
      } else {
        ChaosFleet::SetLinks(target, mode);
      }
    };
    if (cell_.fault == "partition") {
      set_links(Mode::kSilent);
    } else if (cell_.role == "link") {
      set_links(cell_.fault == "kill" ? Mode::kReset : Mode::kSlow);
    } else if (cell_.fault == "kill") {
      begins ? fleet_.Kill(target) : fleet_.StartAgain(target);
    } else if (cell_.fault == "stop") {
      fleet_.Stop(target, begins);
    } else {
      fleet_.Throttle(target, begins);
    }
  }

  void Heal(ChaosOutcome& outcome, ChaosFleet::Clock::time_point begin) {
    const auto end = ChaosFleet::Clock::now();
    const uint64_t newest = fleet_.step();
    outcome.healed = fleet_.Live(
        milliseconds(static_cast<int64_t>(limits_.heal_seconds * 1000)),
        [&] { return fleet_.AllBeyond(newest); });
    const auto healed = ChaosFleet::Clock::now();
    outcome.fault_seconds = std::chrono::duration<double>(end - begin).count();
    outcome.heal_seconds = std::chrono::duration<double>(healed - end).count();
    if (!outcome.healed) {
      fleet_.Log(absl::StrCat("NOT HEALED:\n", fleet_.Describe()));
    }
  }

  // While the fleet lives on: its calls are measured.
  absl::StatusOr<int64_t> CheckRules() {
    if (limits_.check_events.empty()) return 0;
    auto checked = std::async(std::launch::async, CheckEvents,
                              limits_.check_events, fleet_.EventLogs());
    fleet_.Live(kToCheckEvents, [&checked] {
      return checked.wait_for(milliseconds(0)) == std::future_status::ready;
    });
    WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> faults, checked.get());
    for (const std::string& fault : faults) {
      fleet_.Log(absl::StrCat("RULE: ", fault));
    }
    return static_cast<int64_t>(faults.size());
  }

  const ChaosCell& cell_;
  std::mt19937_64& random_;
  const ChaosLimits& limits_;
  ChaosFleet& fleet_;
};

}  // namespace

const std::vector<std::string>& ChaosSteps() {
  static const auto* const steps = [] {
    auto* names = new std::vector<std::string>;
    for (const StepRow& row : kSteps) names->push_back(row.name);
    return names;
  }();
  return *steps;
}

const std::vector<std::string>& ChaosRoles() {
  static const auto* const roles = new std::vector<std::string>{
      "publisher", "replica", "receiver", "catalog", "redis", "link"};
  return *roles;
}

const std::vector<std::string>& ChaosFaultNames() {
  static const auto* const faults =
      new std::vector<std::string>{"kill", "stop", "partition", "slow"};
  return *faults;
}

bool IsTrainerStep(const std::string& step) { return RowOf(step).trainer; }

bool CanStrike(const ChaosCell& cell) {
  return cell.role != "link" || cell.fault != "stop";
}

absl::StatusOr<ChaosOutcome> RunChaosTrial(const ChaosCell& cell,
                                           std::mt19937_64& random,
                                           const ChaosLimits& limits,
                                           ChaosFleet& fleet) {
  return Trial(cell, random, limits, fleet).Run();
}

}  // namespace weft::apps
