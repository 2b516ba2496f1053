// One cell of the crash matrix, tried once: somebody stands at a step of the
// protocol, a fault strikes a role there, life goes on, the fault ends, and
// every engine must come to serve something newer.
#ifndef WEFT_APPS_CHAOS_TRIAL_H_
#define WEFT_APPS_CHAOS_TRIAL_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "chaos_fleet.h"

namespace weft::apps {

struct ChaosCell {
  std::string step;   // "publish.before"
  std::string role;   // "publisher"
  std::string fault;  // "kill"
};

// All that exist. The first part of a step's name is the step of the protocol;
// steps of publishers come first.
const std::vector<std::string>& ChaosSteps();
const std::vector<std::string>& ChaosRoles();
const std::vector<std::string>& ChaosFaultNames();
bool IsTrainerStep(const std::string& step);
// Whether a fault of this kind can strike the role.
bool CanStrike(const ChaosCell& cell);

struct ChaosOutcome {
  int64_t trial = 0;
  std::string fleet;
  ChaosCell cell;
  bool reached = false;  // somebody came to stand at the step
  int64_t torn = 0;
  int64_t hangs = 0;
  int64_t rules_broken = 0;  // in the catalogs' event logs
  int64_t commits = 0;       // of all engines, each read
  int64_t commits_from_copies = 0;
  int64_t restarts = 0;  // of processes that ended by themselves
  bool healed = false;
  double fault_seconds = 0;
  double heal_seconds = 0;  // from the end of the fault
  std::vector<std::string> log;
  bool ok() const {
    return torn == 0 && hangs == 0 && rules_broken == 0 && healed;
  }
};

struct ChaosLimits {
  double heal_seconds = 60;
  std::string check_events;  // the program, or empty
};

// An error if event logs could not be checked.
absl::StatusOr<ChaosOutcome> RunChaosTrial(const ChaosCell& cell,
                                           std::mt19937_64& random,
                                           const ChaosLimits& limits,
                                           ChaosFleet& fleet);

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_TRIAL_H_
