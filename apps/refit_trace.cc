#include "refit_trace.h"

#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "text_file.h"

namespace weft::apps {
namespace {

using Clock = std::chrono::steady_clock;

// The unit of the format.
double Microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

}  // namespace

void RefitTrace::Add(const session::RefitPhase& phase) {
  const std::lock_guard lock(mutex_);
  if (slices_.size() >= kMostPhases) return;
  const int next = static_cast<int>(threads_.size()) + 1;
  const int thread =
      threads_.try_emplace(std::this_thread::get_id(), next).first->second;
  slices_.push_back({phase, thread});
}

absl::Status RefitTrace::Write(const std::string& path,
                               const std::string& process) {
  const std::lock_guard lock(mutex_);
  const int pid = getpid();
  nlohmann::json events = nlohmann::json::array();
  events.push_back({{"ph", "M"},
                    {"pid", pid},
                    {"name", "process_name"},
                    {"args", {{"name", process}}}});
  for (const Slice& slice : slices_) {
    nlohmann::json event = {
        {"ph", "X"},
        {"pid", pid},
        {"tid", slice.thread},
        {"name", slice.phase.name},
        {"ts", Microseconds(slice.phase.begin.time_since_epoch())},
        {"dur", Microseconds(slice.phase.end - slice.phase.begin)}};
    if (slice.phase.bytes > 0) event["args"]["bytes"] = slice.phase.bytes;
    events.push_back(std::move(event));
  }
  return WriteText(path, nlohmann::json{{"traceEvents", std::move(events)},
                                        {"displayTimeUnit", "ms"}}
                             .dump());
}

}  // namespace weft::apps
