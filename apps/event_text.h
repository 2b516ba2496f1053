// Events of the catalog as JSON (docs/formats/events.md) and as lines for a
// person.
#ifndef WEFT_APPS_EVENT_TEXT_H_
#define WEFT_APPS_EVENT_TEXT_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "weft/catalog/event.h"

namespace weft::apps {

inline constexpr int kEventSchema = 1;

// One line each, without its end.
std::string ToJsonLine(const catalog::Event& event, uint64_t log_id);
// What a reader has missed, and that the log began again.
std::string MissedJsonLine(const catalog::EventPage& page);
std::string RestartedJsonLine(const catalog::EventPage& page);

std::string FormatEvent(const catalog::Event& event);
std::string FormatMissed(const catalog::EventPage& page);

// "2026-11-22T20:51:38.123456Z".
std::string FormatTime(int64_t unix_ns);

// "receiver rank 3 (w17)"; empty for an event without a worker.
std::string NameWorker(const catalog::Event& event);

}  // namespace weft::apps

#endif  // WEFT_APPS_EVENT_TEXT_H_
