// The part of `weft bench catalog` that refits.
#ifndef WEFT_BENCH_BENCH_CATALOG_CONTROL_H_
#define WEFT_BENCH_BENCH_CATALOG_CONTROL_H_

#include "absl/status/status.h"
#include "bench_case.h"
#include "bench_fleet.h"

namespace weft::bench {

// `fleet` is of the job "control".
absl::Status BenchCatalogControl(BenchFleet& fleet,
                                 const BenchOptions& options);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_CATALOG_CONTROL_H_
