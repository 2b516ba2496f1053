// Workloads, of refits of a tiny model from 16 ranks, each a process, to 16
// receivers that begin at the same moment, through one catalog process:
//   catalog/ranks-16x16-receiver    until all are committed, over their number:
//                                   what one rank costs the processors that all
//                                   ranks and the catalog share here
//   catalog/ranks-16x16-slowest     control of the one that had to wait longest
//   catalog/ranks-16x16-publisher   until all ranks have published, over their
//                                   number
//   catalog/ranks-16x16-calls       calls that the catalog served, a rank and
//                                   step
// Goal: 1 ms of control a rank and refit.
#include "bench_catalog_ranks.h"

#include <httplib.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench_fleet.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

constexpr int kRanks = 16;
constexpr double kGoalMilliseconds = 1;

std::string JobOfRank(int rank) { return absl::StrCat("ranks:", rank); }

// All calls that have ended, of every method.
absl::StatusOr<double> CallsOf(const std::string& http_address) {
  httplib::Client client("http://" + http_address);
  const httplib::Result page = client.Get("/metrics");
  if (!page || page->status != 200) {
    return absl::UnavailableError(
        absl::StrCat("no metrics from http://", http_address));
  }
  double calls = 0;
  std::istringstream lines(page->body);
  for (std::string line; std::getline(lines, line);) {
    double count = 0;
    if (line.rfind("weft_catalog_rpcs_total{", 0) == 0 &&
        absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &count)) {
      calls += count;
    }
  }
  return calls;
}

using Receivers = std::vector<std::unique_ptr<BenchReceiver>>;

absl::StatusOr<Receivers> MakeReceivers(const BenchFleet& fleet) {
  Receivers receivers;
  for (int rank = 0; rank < kRanks; ++rank) {
    WEFT_ASSIGN_OR_RETURN(const BenchJob job, MakeBenchJob(JobOfRank(rank), 0));
    // All ranks have tensors of the same shapes, and so the same memory.
    WEFT_ASSIGN_OR_RETURN(
        auto receiver,
        MakeBenchReceiver(fleet, "shm", 1, execute::PostedWay::kAuto, true,
                          [&job](session::ReceiverOptions& options) {
                            options.placement = job.target;
                          }));
    receivers.push_back(std::move(receiver));
  }
  return receivers;
}

double MillisecondsARank(std::chrono::steady_clock::time_point start) {
  return SecondsSince(start) * 1e3 / kRanks;
}

}  // namespace

absl::Status BenchCatalogRanks(const BenchOptions& options) {
  const int runs = std::max(options.runs, 20);
  WEFT_ASSIGN_OR_RETURN(
      const auto fleet,
      BenchFleet::Start(JobOfRank(0), 0, "shm", "cpu", "127.0.0.1:0"));
  WEFT_ASSIGN_OR_RETURN(const Receivers receivers, MakeReceivers(*fleet));
  std::vector<double> slowest;
  std::vector<double> publish;
  std::vector<double> calls;
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult refit,
      RunTimed("catalog/ranks-16x16-receiver", "ms", runs, kGoalMilliseconds,
               [&]() -> absl::StatusOr<double> {
                 WEFT_ASSIGN_OR_RETURN(const double calls_before,
                                       CallsOf(fleet->http_address()));
                 auto start = std::chrono::steady_clock::now();
                 WEFT_RETURN_IF_ERROR(fleet->Step().status());
                 publish.push_back(MillisecondsARank(start));
                 start = std::chrono::steady_clock::now();
                 WEFT_ASSIGN_OR_RETURN(const double control_seconds,
                                       RefitAtOnce(receivers));
                 const double ms = MillisecondsARank(start);
                 slowest.push_back(control_seconds * 1e3);
                 WEFT_ASSIGN_OR_RETURN(const double calls_after,
                                       CallsOf(fleet->http_address()));
                 calls.push_back((calls_after - calls_before) / (2 * kRanks));
                 return ms;
               }));
  Print(refit, options);
  WEFT_RETURN_IF_ERROR(PrintMeasured("catalog/ranks-16x16-slowest", "ms",
                                     std::nullopt, slowest, options));
  WEFT_RETURN_IF_ERROR(PrintMeasured("catalog/ranks-16x16-publisher", "ms",
                                     kGoalMilliseconds, publish, options));
  return PrintMeasured("catalog/ranks-16x16-calls", "calls", std::nullopt,
                       calls, options);
}

}  // namespace weft::bench
