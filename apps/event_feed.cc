#include "event_feed.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "event_text.h"
#include "weft/base/log.h"

namespace weft::apps {
namespace {

constexpr std::chrono::milliseconds kNoticeEnd(200);
// A store that is away must not keep the program from ending.
constexpr std::chrono::seconds kPatience(2);
// More than the longest line.
constexpr std::streamoff kTailBytes = 16 << 10;

// The last line of `tail` that is an event; a torn one at the end is not.
void FindLastEvent(const std::string& tail, uint64_t& log_id,
                   uint64_t& number) {
  size_t end = tail.rfind('\n');
  while (end != std::string::npos && end > 0) {
    const size_t before = tail.rfind('\n', end - 1);
    const size_t start = before == std::string::npos ? 0 : before + 1;
    const auto line = nlohmann::json::parse(
        tail.substr(start, end - start), nullptr, /*allow_exceptions=*/false);
    if (line.is_object() && line.contains("log") && line.contains("number") &&
        line["log"].is_number_unsigned() &&
        line["number"].is_number_unsigned()) {
      log_id = line["log"];
      number = line["number"];
      return;
    }
    end = before;
  }
}

}  // namespace

EventFeed::EventFeed(catalog::CatalogStore* store, uint64_t log_id,
                     uint64_t after, std::chrono::milliseconds pause, Sink sink)
    : store_(store), pause_(pause), sink_(std::move(sink)) {
  query_.log_id = log_id;
  query_.from = log_id == 0 ? 0 : after + 1;
  query_.max_events = 4096;
  thread_ = std::thread([this] { Run(); });
}

EventFeed::~EventFeed() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    ends_.notify_all();
  }
  thread_.join();
}

bool EventFeed::EndsWithin(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return ends_.wait_for(lock, time, [this] { return ending_; });
}

void EventFeed::Run() {
  while (true) {
    // Read before the page: what comes after it is the last one.
    const bool last = EndsWithin(std::chrono::milliseconds(0));
    query_.wait_until =
        base::Deadline::After(last ? std::chrono::milliseconds(0) : kNoticeEnd);
    const auto page =
        store_->ReadEvents(query_, base::Deadline::After(kPatience));
    if (page.ok()) {
      if (page->restarted || page->missed > 0 || !page->events.empty()) {
        sink_(*page);
      }
      query_.from = page->next;
      query_.log_id = page->log_id;
    }
    const bool more = page.ok() && !page->events.empty();
    if (last && !more) return;
    EndsWithin(page.ok() ? pause_ : kNoticeEnd);
  }
}

absl::StatusOr<std::unique_ptr<EventFile>> EventFile::Open(
    const std::string& path) {
  auto opened = std::unique_ptr<EventFile>(new EventFile());
  opened->path_ = path;
  bool torn = false;
  if (std::ifstream old(path, std::ios::binary); old) {
    old.seekg(0, std::ios::end);
    const std::streamoff bytes = old.tellg();
    const std::streamoff kept = std::min(bytes, kTailBytes);
    std::string tail(static_cast<size_t>(kept), '\0');
    old.seekg(bytes - kept);
    old.read(tail.data(), kept);
    torn = !tail.empty() && tail.back() != '\n';
    FindLastEvent(tail, opened->log_id_, opened->last_number_);
  }
  opened->file_.open(path, std::ios::binary | std::ios::app);
  if (!opened->file_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot write events to \"", path, "\": ", std::strerror(errno)));
  }
  // The line that a crash has cut is no line for a reader.
  if (torn) opened->file_ << '\n';
  return opened;
}

void EventFile::Append(const catalog::EventPage& page) {
  if (page.restarted) file_ << RestartedJsonLine(page) << '\n';
  if (page.missed > 0) file_ << MissedJsonLine(page) << '\n';
  for (const catalog::Event& event : page.events) {
    file_ << ToJsonLine(event, page.log_id) << '\n';
  }
  file_.flush();
  if (!file_ && !failed_) {
    base::Log(base::LogLevel::kError,
              absl::StrCat("cannot write events to \"", path_,
                           "\" any more: ", std::strerror(errno)));
  }
  failed_ = !file_;
  file_.clear();
}

}  // namespace weft::apps
