// A receiver on a GPU under measurement, and copies to hold it against.
#ifndef WEFT_BENCH_BENCH_GPU_TARGET_H_
#define WEFT_BENCH_BENCH_GPU_TARGET_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench_case.h"
#include "bench_fleet.h"
#include "rank_store.h"
#include "weft/session/receiver.h"
#include "weft/session/refit_phase.h"

namespace weft::bench {

// The phases of a receiver as they end, on whichever thread.
class PhaseLog {
 public:
  void Add(const session::RefitPhase& phase);
  std::vector<session::RefitPhase> Take();

 private:
  std::mutex mutex_;
  std::vector<session::RefitPhase> phases_;
};

// Milliseconds of the parts of a first contact (docs/observability.md), by
// name; "manifests" and "plan and connect" are the whole of it.
std::map<std::string, double> ContactParts(
    const std::vector<session::RefitPhase>& phases);
double ContactMilliseconds(const std::map<std::string, double>& parts);

struct GpuTargetOptions {
  std::string transport = "cuda";
  bool verify = true;
  int threads = 1;
  int num_sms = 0;  // 0: all
  session::ReceiveMode mode = session::ReceiveMode::kInPlace;
  bool keep_previous = true;
};

// The target of a fleet on a GPU, with its memory.
class GpuTarget {
 public:
  static absl::StatusOr<std::unique_ptr<GpuTarget>> Make(
      const BenchFleet& fleet, const apps::DeviceChoice& device,
      const GpuTargetOptions& options);
  session::Receiver& receiver() { return *receiver_; }
  PhaseLog& phases() { return phases_; }
  // To the newest version, which may be the one that it holds.
  absl::StatusOr<session::RefitReport> Refit();

 private:
  GpuTarget() = default;
  std::unique_ptr<apps::RankStore> store_;
  PhaseLog phases_;
  std::unique_ptr<session::Receiver> receiver_;
};

// One copy by the copy engines of memory of GPU `from`, which may be the same.
class CopyBound {
 public:
  static absl::StatusOr<std::unique_ptr<CopyBound>> Make(
      const apps::DeviceChoice& to, int from, int64_t bytes);
  // GB/s of bytes copied.
  absl::StatusOr<double> Rate();

 private:
  CopyBound() = default;
  std::unique_ptr<memory::DeviceBuffer> src_;
  std::unique_ptr<memory::DeviceBuffer> dst_;
  std::unique_ptr<memory::DeviceQueue> queue_;
};

// "gpu/KIND-FROM-to-TO" of the job "qwen3:FROM>TO".
std::string GpuCaseName(const std::string& kind, const std::string& job);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_GPU_TARGET_H_
