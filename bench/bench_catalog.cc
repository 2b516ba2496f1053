// Workload: catalog/list-versions  one small call to a catalog process
// The others are in bench_catalog_control.cc, bench_catalog_ranks.cc,
// bench_catalog_scale.cc and bench_catalog_redis.cc; `--only` takes a part.
#include <algorithm>
#include <chrono>
#include <memory>

#include "bench_case.h"
#include "bench_catalog_control.h"
#include "bench_catalog_ranks.h"
#include "bench_catalog_redis.h"
#include "bench_catalog_scale.h"
#include "bench_fleet.h"
#include "endpoints.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

absl::Status BenchListVersions(const BenchFleet& fleet,
                               const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        apps::ConnectCatalog(fleet.address()));
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult list,
      RunTimed("catalog/list-versions", "ms", std::max(options.runs, 20),
               std::nullopt, [&]() -> absl::StatusOr<double> {
                 const auto start = std::chrono::steady_clock::now();
                 WEFT_RETURN_IF_ERROR(
                     store->ListVersions(fleet.name(), Patience()).status());
                 return std::chrono::duration<double, std::milli>(
                            std::chrono::steady_clock::now() - start)
                     .count();
               }));
  Print(list, options);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchCatalog(const BenchOptions& options) {
  if (options.Wants("control")) {
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BenchFleet> fleet,
                          BenchFleet::Start("control", 0, "shm"));
    WEFT_RETURN_IF_ERROR(BenchCatalogControl(*fleet, options));
    WEFT_RETURN_IF_ERROR(BenchListVersions(*fleet, options));
  }
  if (options.Wants("ranks")) {
    WEFT_RETURN_IF_ERROR(BenchCatalogRanks(options));
  }
  if (options.Wants("scale")) {
    WEFT_RETURN_IF_ERROR(BenchCatalogAtScale(options));
  }
  if (options.Wants("redis")) {
    WEFT_RETURN_IF_ERROR(BenchCatalogOnRedis(options));
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
