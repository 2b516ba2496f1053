// A lease is renewed as long as it is kept, also after others that lasted
// longer, and by a thread that all of them share.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/forwarding_store.h"
#include "weft/session/lease_keeper_internal.h"

namespace weft::session {
namespace {

using catalog::testing::Soon;

// Counts renewals and answers them as it is told.
class CountingStore : public catalog::ForwardingStore {
 public:
  CountingStore() : ForwardingStore(catalog::MakeMemoryStore({})) {}

  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline /*deadline*/) override {
    const std::lock_guard lock(mutex_);
    ++renewals_[lease_id];
    threads_.insert(std::this_thread::get_id());
    changed_.notify_all();
    return lease_id == forgotten_ ? absl::NotFoundError("no such lease")
                                  : absl::OkStatus();
  }
  void Forget(const std::string& lease_id) { forgotten_ = lease_id; }

  // Until `lease_id` has been renewed so often.
  bool AwaitRenewals(const std::string& lease_id, int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, Soon().Remaining(),
                             [&] { return renewals_[lease_id] >= count; });
  }
  int renewals(const std::string& lease_id) {
    const std::lock_guard lock(mutex_);
    return renewals_[lease_id];
  }
  size_t threads() {
    const std::lock_guard lock(mutex_);
    return threads_.size();
  }

 private:
  std::string forgotten_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> renewals_;
  std::set<std::thread::id> threads_;
};

catalog::Lease LeaseOf(const std::string& id, std::chrono::nanoseconds lasts) {
  catalog::Lease lease;
  lease.lease_id = id;
  lease.lasts = lasts;
  return lease;
}

constexpr std::chrono::milliseconds kShort(3);

TEST(LeaseKeeperTest, EachLeaseIsRenewedWhileItIsKept) {
  CountingStore store;
  LeaseKeeper keeper(store);
  for (const std::string id : {"l1", "l2", "l3"}) {
    const LeaseKeeper::Kept kept(keeper, LeaseOf(id, kShort));
    EXPECT_TRUE(store.AwaitRenewals(id, 3)) << id;
  }
  EXPECT_EQ(store.threads(), 1u);
}

TEST(LeaseKeeperTest, OneThatLastsLessThanTheLastIsRenewedInTime) {
  CountingStore store;
  LeaseKeeper keeper(store);
  {
    const LeaseKeeper::Kept kept(keeper, LeaseOf("l1", std::chrono::hours(9)));
  }
  {
    const LeaseKeeper::Kept kept(keeper, LeaseOf("l2", kShort));
    EXPECT_TRUE(store.AwaitRenewals("l2", 2));
  }
  EXPECT_EQ(store.renewals("l1"), 0);
}

TEST(LeaseKeeperTest, OneThatTheCatalogForgotIsLeftAlone) {
  CountingStore store;
  store.Forget("l1");
  LeaseKeeper keeper(store);
  {
    const LeaseKeeper::Kept kept(keeper, LeaseOf("l1", kShort));
    EXPECT_TRUE(store.AwaitRenewals("l1", 1));
  }
  // The thread goes on for those that follow.
  const LeaseKeeper::Kept kept(keeper, LeaseOf("l2", kShort));
  EXPECT_TRUE(store.AwaitRenewals("l2", 3));
  EXPECT_EQ(store.renewals("l1"), 1);
}

}  // namespace
}  // namespace weft::session
