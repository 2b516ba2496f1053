// The events that a store keeps: a bounded number, the oldest go. Not
// thread-safe.
#ifndef WEFT_CATALOG_STATE_EVENT_LOG_H_
#define WEFT_CATALOG_STATE_EVENT_LOG_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "weft/catalog/event.h"

namespace weft::catalog {

class EventLog {
 public:
  // Some 300 bytes each, 1 KiB at most.
  static constexpr std::size_t kEventsKept = 16'384;
  static constexpr int64_t kMostEventsAPage = 4096;

  explicit EventLog(std::size_t events_kept = kEventsKept)
      : events_kept_(events_kept) {}

  // Of a state that names its log so, whose next event has this number. Events
  // that are known already are passed over; if the state has gone back or is
  // another one, what was kept is forgotten.
  void Append(std::vector<Event> events, uint64_t log_id, uint64_t next_event);

  // Number of the next event.
  uint64_t next() const { return next_; }

  // Without waiting.
  EventPage Read(const EventQuery& query) const;
  // Whether a reader that has all up to `from` has something to read.
  bool HasNews(const EventQuery& query) const {
    return query.from < next_ || IsElsewhere(query);
  }

 private:
  // Whether a reader that has read something has read another log, or more than
  // there is.
  bool IsElsewhere(const EventQuery& query) const {
    const bool other_log = query.log_id != 0 && query.log_id != log_id_;
    return query.from > next_ || (other_log && query.from > 1);
  }

  std::size_t events_kept_;
  uint64_t log_id_ = 0;
  uint64_t next_ = 1;
  std::deque<Event> events_;  // ascending; numbers may be missing between
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_EVENT_LOG_H_
