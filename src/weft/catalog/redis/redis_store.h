// A CatalogStore whose state outlives the process: a log of commands in Redis
// that every catalog server on the same Redis and prefix reads, so that all of
// them are one catalog (docs/decisions/0015-catalog-on-redis.md).
#ifndef WEFT_CATALOG_REDIS_REDIS_STORE_H_
#define WEFT_CATALOG_REDIS_REDIS_STORE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

struct RedisStoreOptions {
  std::string password = "";
  // For tests: nanoseconds since 1970. The clock of Redis if not given.
  std::function<base::Deadline::Clock::time_point()> now = nullptr;
  // As in MemoryStoreOptions. The first server on a Redis and prefix chooses
  // for all that come after.
  std::chrono::nanoseconds lease_duration = kDefaultLeaseDuration;
  std::chrono::nanoseconds attach_within = std::chrono::seconds(10);
  // A server that says nothing for so long is taken for dead, and its workers
  // have attach_within to attach elsewhere.
  std::chrono::milliseconds server_timeout = std::chrono::seconds(4);
  // How long a call waits for a Redis that is away; kUnavailable then.
  std::chrono::nanoseconds patience = std::chrono::seconds(10);
  // Log entries from snapshot to snapshot; 0: as many as are good.
  uint64_t entries_a_snapshot = 0;
  // Told, with no lock held, what a person should know: a line each.
  std::function<void(const std::string& line)> on_note = nullptr;
};

// `url` is "redis://HOST[:PORT][/PREFIX]". Waits for Redis as long as
// options.patience; kDataLoss if what lies there is no catalog.
//
// Beyond store.h: when a call is kUnavailable it may have been done.
// Destroying the store leaves its workers for other servers to take over; a
// single worker dies with its attachment as in every store.
absl::StatusOr<std::unique_ptr<CatalogStore>> MakeRedisStore(
    const std::string& url, const RedisStoreOptions& options = {});

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_REDIS_REDIS_STORE_H_
