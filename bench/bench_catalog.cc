// Workloads: catalog/warm-control-receiver   everything of a warm refit but
//              moving and checking bytes: 4 source ranks, 2 receivers at once
//            catalog/warm-control-publisher  the same of the slowest publisher
//            catalog/list-versions           one small call
// Goal: 1 ms. More of it in bench_catalog_scale.cc and bench_catalog_redis.cc.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "bench_case.h"
#include "bench_catalog_redis.h"
#include "bench_catalog_scale.h"
#include "bench_fleet.h"
#include "endpoints.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

constexpr double kGoalMilliseconds = 1;

}  // namespace

absl::Status BenchCatalog(const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BenchFleet> fleet,
                        BenchFleet::Start("control", 0, "shm"));
  std::unique_ptr<BenchReceiver> targets[2];
  for (auto& target : targets) {
    WEFT_ASSIGN_OR_RETURN(
        target,
        MakeBenchReceiver(*fleet, "shm", 1, execute::PostedWay::kAuto, true));
  }
  double publisher_seconds = 0;
  std::vector<double> publisher_ms;
  const int runs = std::max(options.runs, 20);
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult receiver,
      RunTimed("catalog/warm-control-receiver", "ms", runs, kGoalMilliseconds,
               [&]() -> absl::StatusOr<double> {
                 WEFT_ASSIGN_OR_RETURN(publisher_seconds, fleet->Step());
                 publisher_ms.push_back(publisher_seconds * 1e3);
                 absl::StatusOr<session::RefitReport> reports[2] = {
                     session::RefitReport{}, session::RefitReport{}};
                 std::thread second([&] {
                   reports[1] =
                       targets[1]->receiver->Refit(nullptr, false, Patience());
                 });
                 reports[0] =
                     targets[0]->receiver->Refit(nullptr, false, Patience());
                 second.join();
                 WEFT_RETURN_IF_ERROR(reports[0].status());
                 WEFT_RETURN_IF_ERROR(reports[1].status());
                 return std::max(reports[0]->control_seconds,
                                 reports[1]->control_seconds) *
                        1e3;
               }));
  Print(receiver, options);
  size_t next = 0;
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult publisher,
      RunTimed("catalog/warm-control-publisher", "ms", runs, kGoalMilliseconds,
               [&]() -> absl::StatusOr<double> {
                 return publisher_ms[next++ % publisher_ms.size()];
               }));
  Print(publisher, options);
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        apps::ConnectCatalog(fleet->address()));
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult list,
      RunTimed("catalog/list-versions", "ms", runs, std::nullopt,
               [&]() -> absl::StatusOr<double> {
                 const auto start = std::chrono::steady_clock::now();
                 WEFT_RETURN_IF_ERROR(
                     store->ListVersions("control", Patience()).status());
                 return std::chrono::duration<double, std::milli>(
                            std::chrono::steady_clock::now() - start)
                     .count();
               }));
  Print(list, options);
  WEFT_RETURN_IF_ERROR(BenchCatalogAtScale(options));
  return BenchCatalogOnRedis(options);
}

}  // namespace weft::bench
