// The phases of a process's refits as a file for https://ui.perfetto.dev.
#ifndef WEFT_APPS_REFIT_TRACE_H_
#define WEFT_APPS_REFIT_TRACE_H_

#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "weft/session/refit_phase.h"

namespace weft::apps {

// Threads: Add may be called from any thread.
class RefitTrace {
 public:
  // What comes beyond is left out, so that a long run stays small.
  static constexpr std::size_t kMostPhases = 100'000;

  void Add(const session::RefitPhase& phase);
  // `process` names the row: "engine rank 3".
  absl::Status Write(const std::string& path, const std::string& process);

 private:
  struct Slice {
    session::RefitPhase phase;
    int thread = 0;
  };
  std::mutex mutex_;
  std::map<std::thread::id, int> threads_;
  std::vector<Slice> slices_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_REFIT_TRACE_H_
