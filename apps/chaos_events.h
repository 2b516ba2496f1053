// What catalogs wrote of a fleet (`--events`), judged by a program: the rules
// of scripts/check_events.py know nothing of the code that is tried here.
#ifndef WEFT_APPS_CHAOS_EVENTS_H_
#define WEFT_APPS_CHAOS_EVENTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace weft::apps {

// Runs `program` with `files`, those of them that exist, and waits for its end.
// With exit code 0 nothing; with 1 the rules that are broken, a line each of
// what it printed but for the last, which sums up; else an error with what it
// said.
absl::StatusOr<std::vector<std::string>> CheckEvents(
    const std::string& program, const std::vector<std::string>& files);

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_EVENTS_H_
