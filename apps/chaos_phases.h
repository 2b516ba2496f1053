// Where a rank of `weft chaos` can be stopped: the steps of the protocol, by
// decorators of what a session is given, so that the session itself has no
// hooks for tests.
#ifndef WEFT_APPS_CHAOS_PHASES_H_
#define WEFT_APPS_CHAOS_PHASES_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <utility>

#include "weft/catalog/store.h"
#include "weft/convert/kernel.h"

namespace weft::apps {

// Reads lines of standard input in a thread of its own: "park PHASE N" arms
// the gate, "resume" opens it, all others are commands for the rank.
class PhaseGate {
 public:
  // The gate of this process, which lives as long as it: nobody can stop a
  // thread that waits for input. `armed`: "PHASE N" to begin with, or empty.
  // `fenced`: whether this rank is, from any thread.
  static PhaseGate& Open(const std::string& armed,
                         std::function<bool()> fenced);
  PhaseGate(const PhaseGate&) = delete;
  PhaseGate& operator=(const PhaseGate&) = delete;

  // Stays here, after saying so on standard output, if this is the armed phase
  // and it was passed N times since. Cheap when nothing is armed.
  void Pass(const char* phase);
  // The next command; nullopt at the end of input.
  std::optional<std::string> NextCommand();

 private:
  explicit PhaseGate(std::function<bool()> fenced)
      : fenced_(std::move(fenced)) {}
  void Arm(const std::string& phase_and_count);
  void ReadInput();

  const std::function<bool()> fenced_;
  std::atomic<bool> armed_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string phase_;
  int skip_ = 0;
  bool parked_ = false;
  bool ended_ = false;
  std::queue<std::string> commands_;
};

// Passes "register.before", "lease.after" and so on. `gate` must outlive it.
std::shared_ptr<catalog::CatalogStore> WithPhases(
    std::shared_ptr<catalog::CatalogStore> store, PhaseGate& gate);

// The kernels of the processor, which pass "transfer" before each copy and
// "digest" before each digest.
class PhaseKernels : public convert::Kernels {
 public:
  explicit PhaseKernels(PhaseGate& gate) : gate_(gate) {}
  std::string_view name() const override { return "phases"; }
  void Copy(const convert::StridedCopy& copy) const override;
  void Quantise(const convert::BlockQuantisation& work) const override;
  void DequantiseMxfp4(const convert::Mxfp4Blocks& work) const override;
  void DigestRow(const convert::DigestConstants& constants,
                 const std::byte* data, int64_t num_elements, int item_bytes,
                 int row, int col, convert::DigestValue& value) const override;
  void DigestBand(const convert::DigestConstants& constants,
                  const std::byte* data, int64_t row_stride_bytes, int num_rows,
                  int64_t num_cols, int item_bytes, int row, int col,
                  absl::Span<convert::DigestValue> values) const override;

 private:
  PhaseGate& gate_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_PHASES_H_
