#include "weft/catalog/version_queue.h"

#include <algorithm>
#include <utility>

namespace weft::catalog {

void VersionQueue::Push(const VersionRecord& record) {
  const std::lock_guard lock(mutex_);
  const auto queued = by_version_.find(record.version);
  if (queued != by_version_.end()) {
    if (queued->second->state == VersionState::kGone) --gone_count_;
    records_.erase(queued->second);
    by_version_.erase(queued);
  }
  by_version_[record.version] = records_.insert(records_.end(), record);
  if (record.state == VersionState::kGone) ++gone_count_;
  if (gone_count_ > kGoneVersionsQueued) DropOldestGone();
  changed_.notify_all();
}

void VersionQueue::DropOldestGone() {
  const auto oldest = std::find_if(records_.begin(), records_.end(),
                                   [](const VersionRecord& record) {
                                     return record.state == VersionState::kGone;
                                   });
  by_version_.erase(oldest->version);
  records_.erase(oldest);
  --gone_count_;
}

void VersionQueue::Close(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = status;
  changed_.notify_all();
}

void VersionQueue::Wake() {
  const std::lock_guard lock(wake_mutex_);
  if (wake_) wake_();
}

absl::StatusOr<VersionRecord> VersionQueue::Next(base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  const bool ended = changed_.wait_for(lock, deadline.Remaining(), [this] {
    return cancelled_ || !records_.empty() || !closed_.ok();
  });
  if (cancelled_)
    return absl::CancelledError("the version watch was cancelled");
  if (!records_.empty()) {
    VersionRecord record = std::move(records_.front());
    records_.pop_front();
    by_version_.erase(record.version);
    if (record.state == VersionState::kGone) --gone_count_;
    return record;
  }
  if (!ended) {
    return absl::DeadlineExceededError(
        "deadline passed while waiting for a version to change");
  }
  return closed_;
}

void VersionQueue::Cancel() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
  }
  Wake();
}

void VersionQueue::SetWake(std::function<void()> wake) {
  const std::lock_guard lock(wake_mutex_);
  wake_ = std::move(wake);
  if (wake_) wake_();
}

}  // namespace weft::catalog
