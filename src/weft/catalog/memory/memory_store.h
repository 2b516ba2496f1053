// The reference CatalogStore: all state in this process, under one mutex.
// Nothing survives the process; a restarted catalog is filled again by the
// workers, which see kUnavailable and register anew.
#ifndef WEFT_CATALOG_MEMORY_MEMORY_STORE_H_
#define WEFT_CATALOG_MEMORY_MEMORY_STORE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "weft/base/deadline.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

struct MemoryStoreOptions {
  // For leases and registrations. A test sets a clock of its own; every call
  // on the store then first ends what has expired by that clock.
  std::function<base::Deadline::Clock::time_point()> now =
      base::Deadline::Clock::now;
  // A lease that is neither released nor renewed by then is revoked.
  std::chrono::nanoseconds lease_duration = kDefaultLeaseDuration;
  // A worker that is not attached by then is dropped.
  std::chrono::nanoseconds attach_within = std::chrono::seconds(10);
  // Where ids, generations and source sets start; 0: microseconds of the wall
  // clock, so that no number of a restarted catalog equals one of its life
  // before. Only tests set it.
  uint64_t first_number = 0;
  // Dead workers of a model that ListWorkers still shows.
  std::size_t dead_workers_kept = 64;
  // Placements that no worker uses are kept for the worker that puts first and
  // registers then, and for restarts; the oldest go above either limit.
  std::size_t unused_placements_kept = 1024;
  int64_t unused_placement_bytes_kept = int64_t{512} << 20;
  // Told, with no lock held, what a person should know: a line each.
  std::function<void(const std::string& line)> on_note = nullptr;
};

// Destroying the store ends its watches with kUnavailable; attachments may
// outlive it. No other call may be running then.
std::unique_ptr<CatalogStore> MakeMemoryStore(
    const MemoryStoreOptions& options = {});

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MEMORY_MEMORY_STORE_H_
