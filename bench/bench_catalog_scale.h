// The part of `weft bench catalog` with a whole cluster's workers.
#ifndef WEFT_BENCH_BENCH_CATALOG_SCALE_H_
#define WEFT_BENCH_BENCH_CATALOG_SCALE_H_

#include "absl/status/status.h"
#include "bench_case.h"

namespace weft::bench {

absl::Status BenchCatalogAtScale(const BenchOptions& options);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_CATALOG_SCALE_H_
