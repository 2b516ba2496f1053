// What the catalog did, one event a change, for people and for checkers:
// docs/formats/events.md. Every server of one catalog numbers them alike.
#ifndef WEFT_CATALOG_EVENT_H_
#define WEFT_CATALOG_EVENT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weft/base/deadline.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

enum class EventKind : uint8_t {
  kWorkerRegistered = 1,
  kWorkerAttached = 2,
  kWorkerOrphaned = 3,    // its server went; it may attach elsewhere
  kWorkerReattached = 4,  // after its attachment broke
  kWorkerDied = 5,
  kWorkerFenced = 6,   // a publisher, by a newer epoch or another run
  kWorkerDropped = 7,  // registered and never attached
  kTakeover = 8,       // a run and epoch became the model's current one
  kShardPublished = 9,
  kVersionStaging = 10,
  kVersionReady = 11,
  kVersionRetiring = 12,
  kVersionGone = 13,
  kLeaseAcquired = 14,
  kLeaseReleased = 15,
  kLeaseRevoked = 16,
  kCommitted = 17,
  kCommitRefused = 18,   // by a receiver whose lease had been revoked
  kReceiverFenced = 19,  // said so itself: it may hold torn weights
  // Without a lease: a receiver switched to what it had received under one, or
  // went back to it.
  kServing = 20,
  // A publisher died, and a replica or a copy holds what it held of the
  // version.
  kShardLost = 21,
  kCopyPublished = 22,  // a copy is a further source of the version
  kCopyWithdrawn = 23,  // it is none any more; not told when the version goes
};
inline constexpr EventKind kLastEventKind = EventKind::kCopyWithdrawn;
// "version-ready"; "unknown" for a number that is none.
std::string_view ToString(EventKind kind);

// Fields that an event of this kind does not have are empty or 0.
struct Event {
  uint64_t number = 0;  // 1, 2, 3 ... within a log
  int64_t unix_ns = 0;  // on the clock of the server that was asked
  EventKind kind = EventKind::kWorkerRegistered;
  std::string model;
  std::string worker_id;
  uint64_t generation = 0;
  Role role = Role::kPublisher;  // with worker_id only
  int64_t rank = 0;              // with worker_id only
  // Of events of publishers: their run and epoch, step 0.
  VersionId version;
  std::string lease_id;
  int64_t ranks_published = 0;
  int64_t ranks_expected = 0;
  std::string reason;  // at most kMaxEventReasonBytes
};
inline constexpr int64_t kMaxEventReasonBytes = 512;

struct EventQuery {
  // The number of the first event that is wanted; 0: whatever is kept.
  uint64_t from = 0;
  // The log that `from` counts in; 0: whichever there is.
  uint64_t log_id = 0;
  std::string model = "";  // empty: all
  int64_t max_events = 1000;
  // How long to wait for one, if there is none yet. No error when it passes.
  base::Deadline wait_until =
      base::Deadline::At(base::Deadline::Clock::time_point());
};

struct EventPage {
  // Names this life of the catalog: another number means that numbers began
  // again from 1.
  uint64_t log_id = 0;
  // Wanted, but not kept any more, before the first event here.
  uint64_t missed = 0;
  // The log is not the one that was asked for, or has lost its end: this page
  // begins with the oldest event that is kept.
  bool restarted = false;
  uint64_t next = 1;  // `from` of the next query
  uint64_t end = 1;   // the number that the next event of the log will have
  std::vector<Event> events;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_EVENT_H_
