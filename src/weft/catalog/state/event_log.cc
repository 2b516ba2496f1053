#include "weft/catalog/state/event_log.h"

#include <algorithm>
#include <utility>

namespace weft::catalog {

void EventLog::Append(std::vector<Event> events, uint64_t log_id,
                      uint64_t next_event) {
  if (log_id != log_id_ || next_event < next_) {
    events_.clear();
    log_id_ = log_id;
    next_ = 1;
  }
  for (Event& event : events) {
    if (event.number < next_) continue;
    next_ = event.number + 1;
    events_.push_back(std::move(event));
  }
  next_ = next_event;
  while (events_.size() > events_kept_) events_.pop_front();
}

EventPage EventLog::Read(const EventQuery& query) const {
  EventPage page;
  page.log_id = log_id_;
  page.end = next_;
  page.restarted = IsElsewhere(query);
  const uint64_t from = page.restarted ? 1 : query.from;
  auto next = std::lower_bound(events_.begin(), events_.end(), from,
                               [](const Event& event, uint64_t number) {
                                 return event.number < number;
                               });
  const uint64_t first = next == events_.end() ? next_ : next->number;
  if (from != 0) page.missed = first - from;
  page.next = first;
  const auto limit = static_cast<std::size_t>(
      std::clamp<int64_t>(query.max_events, 1, kMostEventsAPage));
  // A page ends where events are missing: the next one counts them.
  for (; next != events_.end() && next->number == page.next &&
         page.events.size() < limit;
       ++next) {
    ++page.next;
    if (query.model.empty() || query.model == next->model) {
      page.events.push_back(*next);
    }
  }
  return page;
}

}  // namespace weft::catalog
