#include <algorithm>

#include "weft/base/deadline.h"
#include "weft/session/lease_keeper_internal.h"

namespace weft::session {
namespace {

constexpr int kRenewalsADuration = 3;
// So that the end of a refit does not wait for a catalog that is away.
constexpr std::chrono::nanoseconds kRenewTime = std::chrono::seconds(2);

}  // namespace

LeaseKeeper::LeaseKeeper(catalog::CatalogStore& store,
                         const catalog::Lease& lease)
    : store_(store),
      lease_id_(lease.lease_id),
      pause_(lease.lasts / kRenewalsADuration) {
  // A catalog that does not say how long a lease lasts renews none.
  if (pause_ > std::chrono::nanoseconds(0)) {
    thread_ = std::thread([this] { Run(); });
  }
}

LeaseKeeper::~LeaseKeeper() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::Run() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, pause_, [this] { return over_; })) {
    lock.unlock();
    const absl::Status renewed = store_.RenewLease(
        lease_id_, base::Deadline::After(std::min(pause_, kRenewTime)));
    if (absl::IsFailedPrecondition(renewed) || absl::IsNotFound(renewed)) {
      return;
    }
    lock.lock();
  }
}

}  // namespace weft::session
