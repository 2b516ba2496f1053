#include <algorithm>

#include "weft/base/deadline.h"
#include "weft/session/lease_keeper_internal.h"

namespace weft::session {
namespace {

constexpr int kRenewalsADuration = 3;
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
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  // One that wakes before for a lease of the past sees then that it is early.
  if (held_->due < wakes_) changed_.notify_all();
}

void LeaseKeeper::Drop() {
  const std::lock_guard lock(mutex_);
  held_.reset();
}

void LeaseKeeper::Run() {
  std::unique_lock lock(mutex_);
  while (!over_) {
    if (!held_) {
      wakes_ = Clock::time_point::max();
      changed_.wait(lock);
    } else if (Clock::now() < held_->due) {
      wakes_ = held_->due;
      changed_.wait_until(lock, wakes_);
    } else {
      Renew(lock);
    }
  }
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
  } else {
    held_->due = Clock::now() + renewed.pause;
  }
}

}  // namespace weft::session
