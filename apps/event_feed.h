// The events of a store, page after page, on a thread of their own.
#ifndef WEFT_APPS_EVENT_FEED_H_
#define WEFT_APPS_EVENT_FEED_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/catalog/event.h"
#include "weft/catalog/store.h"

namespace weft::apps {

class EventFeed {
 public:
  using Sink = std::function<void(const catalog::EventPage&)>;

  // Begins after event `after` of log `log_id`, or with the oldest that is kept
  // if `log_id` is 0. With `pause` it looks away that long after each page: who
  // only counts events need not be awake for each. `store` must outlive the
  // feed.
  EventFeed(catalog::CatalogStore* store, uint64_t log_id, uint64_t after,
            std::chrono::milliseconds pause, Sink sink);
  // Hands out what there is still, then ends.
  ~EventFeed();
  EventFeed(const EventFeed&) = delete;
  EventFeed& operator=(const EventFeed&) = delete;

 private:
  void Run();
  bool EndsWithin(std::chrono::milliseconds time);

  catalog::CatalogStore* const store_;
  catalog::EventQuery query_;
  const std::chrono::milliseconds pause_;
  const Sink sink_;
  std::mutex mutex_;
  std::condition_variable ends_;
  bool ending_ = false;
  std::thread thread_;
};

// JSON lines, appended: a server that is started again goes on where its file
// ends, if the log is the same.
class EventFile {
 public:
  static absl::StatusOr<std::unique_ptr<EventFile>> Open(
      const std::string& path);

  // Of the last event in the file; 0 if there is none.
  uint64_t log_id() const { return log_id_; }
  uint64_t last_number() const { return last_number_; }

  // A disk that is full is told once, in the log.
  void Append(const catalog::EventPage& page);

 private:
  EventFile() = default;

  std::string path_;
  std::ofstream file_;
  uint64_t log_id_ = 0;
  uint64_t last_number_ = 0;
  bool failed_ = false;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_EVENT_FEED_H_
