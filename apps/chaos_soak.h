// Many refits of one fleet whose members join, leave and fail around those that
// stay: what the ones that stay take must not grow.
#ifndef WEFT_APPS_CHAOS_SOAK_H_
#define WEFT_APPS_CHAOS_SOAK_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "chaos_fleet.h"

namespace weft::apps {

// What a process takes, from /proc.
struct ProcessUse {
  int64_t resident_bytes = 0;
  int64_t shared_bytes = 0;  // mapped memory that peers register and import
  int64_t descriptors = 0;
  int64_t threads = 0;
};
absl::StatusOr<ProcessUse> ReadProcessUse(pid_t pid);

struct SoakRow {
  std::string process;
  ProcessUse first;  // mean of the first tenth
  ProcessUse last;   // mean of the last tenth
  bool flat = false;
};

struct SoakReport {
  int64_t refits = 0;
  int64_t joins = 0;
  int64_t faults = 0;
  int64_t commits = 0;  // of all engines, each read
  int64_t torn = 0;
  int64_t hangs = 0;
  std::vector<std::string> rules_broken;  // of event logs; one sentence each
  double seconds = 0;
  std::vector<SoakRow> rows;
  bool ok() const;
};

// Until the first engine has committed `refits` times, after some to warm up.
// The fleet needs two engines and two trainers that stand in for each other.
// kInternal if a member that stays has ended, kDeadlineExceeded if refits stop
// for `patience`.
absl::StatusOr<SoakReport> RunSoak(ChaosFleet& fleet, int64_t refits,
                                   std::chrono::milliseconds patience,
                                   std::mt19937_64& random);

std::string FormatSoak(const SoakReport& report);
nlohmann::json ToJson(const SoakReport& report);

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_SOAK_H_
