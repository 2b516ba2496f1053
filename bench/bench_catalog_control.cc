// Workloads: catalog/warm-control-receiver   everything of a warm refit but
//              moving and checking bytes: 4 source ranks, 2 receivers at once
//            catalog/warm-control-publisher  the same of the slowest publisher
//            catalog/control-cold-lease, -commit  a receiver's two calls, each
//              after 40 ms in which nothing ran: how a step of training and a
//              transfer by GPUs leave the processors
// Goal: 1 ms of control a rank and refit.
#include "bench_catalog_control.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "weft/base/status.h"

namespace weft::bench {
namespace {

constexpr double kGoalMilliseconds = 1;
constexpr std::chrono::milliseconds kIdle(40);

double Milliseconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

absl::Status BenchWarm(BenchFleet& fleet, const BenchOptions& options,
                       int runs) {
  std::unique_ptr<BenchReceiver> targets[2];
  for (auto& target : targets) {
    WEFT_ASSIGN_OR_RETURN(
        target,
        MakeBenchReceiver(fleet, "shm", 1, execute::PostedWay::kAuto, true));
  }
  std::vector<double> publisher_ms;
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult receiver,
      RunTimed("catalog/warm-control-receiver", "ms", runs, kGoalMilliseconds,
               [&]() -> absl::StatusOr<double> {
                 WEFT_ASSIGN_OR_RETURN(const double seconds, fleet.Step());
                 publisher_ms.push_back(seconds * 1e3);
                 WEFT_ASSIGN_OR_RETURN(const double control_seconds,
                                       RefitAtOnce(targets));
                 return control_seconds * 1e3;
               }));
  Print(receiver, options);
  return PrintMeasured("catalog/warm-control-publisher", "ms",
                       kGoalMilliseconds, publisher_ms, options);
}

absl::Status BenchCold(BenchFleet& fleet, const BenchOptions& options,
                       int runs) {
  std::map<std::string, std::vector<double>> phases;
  const auto adjust = [&](session::ReceiverOptions& receiver) {
    receiver.derive_hook = [](const catalog::VersionId&) {
      std::this_thread::sleep_for(kIdle);
      return absl::OkStatus();
    };
    receiver.on_phase = [&phases](const session::RefitPhase& phase) {
      phases[phase.name].push_back(Milliseconds(phase.end - phase.begin));
    };
  };
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchReceiver> target,
      MakeBenchReceiver(fleet, "shm", 1, execute::PostedWay::kAuto, true,
                        adjust));
  for (int run = -1; run < runs; ++run) {
    WEFT_RETURN_IF_ERROR(fleet.Step().status());
    std::this_thread::sleep_for(kIdle);
    WEFT_RETURN_IF_ERROR(
        target->receiver->Refit(nullptr, false, Patience()).status());
  }
  for (const std::string phase : {"lease", "commit"}) {
    WEFT_RETURN_IF_ERROR(PrintMeasured("catalog/control-cold-" + phase, "ms",
                                       kGoalMilliseconds, phases[phase],
                                       options));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchCatalogControl(BenchFleet& fleet,
                                 const BenchOptions& options) {
  const int runs = std::max(options.runs, 20);
  WEFT_RETURN_IF_ERROR(BenchWarm(fleet, options, runs));
  return BenchCold(fleet, options, runs);
}

}  // namespace weft::bench
