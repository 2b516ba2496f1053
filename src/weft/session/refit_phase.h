// The phases of a refit, for a timeline: docs/observability.md.
#ifndef WEFT_SESSION_REFIT_PHASE_H_
#define WEFT_SESSION_REFIT_PHASE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace weft::session {

struct RefitPhase {
  std::string name;  // "lease", "move", "verify" ...
  std::chrono::steady_clock::time_point begin;
  std::chrono::steady_clock::time_point end;
  int64_t bytes = 0;  // that it moved; 0 for a phase that moves none
};

using PhaseObserver = std::function<void(const RefitPhase&)>;

// Tells of a phase when it goes, however the phase has ended. `observer` may be
// empty, and must outlive it.
class PhaseTimer {
 public:
  PhaseTimer(const PhaseObserver& observer, std::string name)
      : observer_(observer),
        phase_{.name = std::move(name),
               .begin = std::chrono::steady_clock::now(),
               .end = {}} {}
  ~PhaseTimer() {
    if (!observer_) return;
    phase_.end = std::chrono::steady_clock::now();
    observer_(phase_);
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

  void set_bytes(int64_t bytes) { phase_.bytes = bytes; }

 private:
  const PhaseObserver& observer_;
  RefitPhase phase_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_REFIT_PHASE_H_
