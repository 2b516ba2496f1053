// What the trials of `weft chaos` came to, for a person and for programs.
#ifndef WEFT_APPS_CHAOS_REPORT_H_
#define WEFT_APPS_CHAOS_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "chaos_trial.h"

namespace weft::apps {

struct ChaosSummary {
  int64_t trials = 0;
  int64_t reached = 0;
  int64_t torn = 0;
  int64_t hangs = 0;
  int64_t rules_broken = 0;
  int64_t not_healed = 0;
  int64_t commits = 0;  // whose bytes were read
  int64_t commits_from_copies = 0;
  int64_t restarts = 0;  // of processes that ended by themselves
  double heal_median_seconds = 0;
  double heal_p99_seconds = 0;
  bool ok() const {
    return torn == 0 && hangs == 0 && rules_broken == 0 && not_healed == 0;
  }
};

ChaosSummary SumUp(const std::vector<ChaosOutcome>& outcomes);

// Tables: trials by step and role, then faults by role with what went wrong.
std::string FormatChaos(const std::vector<ChaosOutcome>& outcomes,
                        const ChaosSummary& summary);

nlohmann::json ToJson(const ChaosOutcome& outcome);
nlohmann::json ToJson(const ChaosSummary& summary);

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_REPORT_H_
