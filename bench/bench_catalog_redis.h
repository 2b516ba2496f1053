// The part of `weft bench catalog` that needs a redis-server.
#ifndef WEFT_BENCH_BENCH_CATALOG_REDIS_H_
#define WEFT_BENCH_BENCH_CATALOG_REDIS_H_

#include "absl/status/status.h"
#include "bench_case.h"

namespace weft::bench {

absl::Status BenchCatalogOnRedis(const BenchOptions& options);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_CATALOG_REDIS_H_
