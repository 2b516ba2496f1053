// The part of `weft bench catalog` with as many ranks as a small cluster has.
#ifndef WEFT_BENCH_BENCH_CATALOG_RANKS_H_
#define WEFT_BENCH_BENCH_CATALOG_RANKS_H_

#include "absl/status/status.h"
#include "bench_case.h"

namespace weft::bench {

absl::Status BenchCatalogRanks(const BenchOptions& options);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_CATALOG_RANKS_H_
