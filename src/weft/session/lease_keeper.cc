#include <algorithm>
#include <utility>

#include "weft/base/deadline.h"
#include "weft/session/lease_keeper_internal.h"

namespace weft::session {
namespace {

constexpr int kRenewalsADuration = 3;
// A second, as leases are: a publisher may be waiting.
constexpr int kAttemptsADuration = 60;
// So that the end of a receiver does not wait for a catalog that is away.
constexpr std::chrono::nanoseconds kRenewTime = std::chrono::seconds(2);

}  // namespace

LeaseKeeper::~LeaseKeeper() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::Keep(const catalog::Lease& lease) {
  const std::chrono::nanoseconds pause = lease.lasts / kRenewalsADuration;
  // A catalog that does not say how long a lease lasts renews none.
  if (pause <= std::chrono::nanoseconds(0)) return;
  const std::lock_guard lock(mutex_);
  held_ = Held{lease.lease_id, pause, Clock::now() + pause};
  WakeBy(held_->due);
}

void LeaseKeeper::RenewNow() {
  const std::lock_guard lock(mutex_);
  if (!held_) return;
  held_->due = Clock::now();
  WakeBy(held_->due);
}

void LeaseKeeper::Drop() {
  const std::lock_guard lock(mutex_);
  held_.reset();
}

absl::Status LeaseKeeper::Release(const catalog::Lease& lease, bool committed,
                                  const std::string& fenced_reason,
                                  base::Deadline deadline) {
  absl::Status released =
      store_.ReleaseLease(lease.lease_id, committed, fenced_reason, deadline);
  if (absl::IsUnavailable(released) || absl::IsDeadlineExceeded(released)) {
    Owe(lease);
  }
  return released;
}

void LeaseKeeper::Owe(const catalog::Lease& lease) {
  const std::chrono::nanoseconds pause = lease.lasts / kAttemptsADuration;
  if (pause <= std::chrono::nanoseconds(0)) return;
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  owed_.push_back({lease.lease_id, pause, now + pause, now + lease.lasts});
  WakeBy(owed_.back().due);
}

void LeaseKeeper::WakeBy(Clock::time_point due) {
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  // One that wakes before for a lease of the past sees then that it is early.
  if (due < wakes_) changed_.notify_all();
}

LeaseKeeper::Clock::time_point LeaseKeeper::NextDue() const {
  Clock::time_point next = held_ ? held_->due : Clock::time_point::max();
  for (const Owed& owed : owed_) next = std::min(next, owed.due);
  return next;
}

void LeaseKeeper::Run() {
  std::unique_lock lock(mutex_);
  while (!over_) {
    const Clock::time_point next = NextDue();
    if (next == Clock::time_point::max()) {
      wakes_ = next;
      changed_.wait(lock);
    } else if (Clock::now() < next) {
      wakes_ = next;
      changed_.wait_until(lock, wakes_);
    } else if (held_ && held_->due == next) {
      Renew(lock);
    } else {
      GiveBack(lock);
    }
  }
}

// The one that is due first.
void LeaseKeeper::GiveBack(std::unique_lock<std::mutex>& lock) {
  const auto first = std::min_element(
      owed_.begin(), owed_.end(),
      [](const Owed& a, const Owed& b) { return a.due < b.due; });
  Owed owed = std::move(*first);
  owed_.erase(first);
  lock.unlock();
  const absl::Status status = store_.ReleaseLease(
      owed.lease_id, /*committed=*/false, /*fenced_reason=*/"",
      base::Deadline::After(kRenewTime));
  lock.lock();
  const bool unheard =
      absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
  owed.due = Clock::now() + owed.pause;
  if (unheard && owed.due < owed.expiry) owed_.push_back(std::move(owed));
}

void LeaseKeeper::Renew(std::unique_lock<std::mutex>& lock) {
  const Held renewed = *held_;
  lock.unlock();
  const absl::Status status = store_.RenewLease(
      renewed.lease_id,
      base::Deadline::After(std::min(renewed.pause, kRenewTime)));
  lock.lock();
  // Another one may be held by now.
  if (!held_ || held_->lease_id != renewed.lease_id) return;
  if (absl::IsFailedPrecondition(status) || absl::IsNotFound(status)) {
    held_.reset();
  } else if (held_->due == renewed.due) {  // else asked for meanwhile
    held_->due = Clock::now() + renewed.pause;
  }
}

}  // namespace weft::session
