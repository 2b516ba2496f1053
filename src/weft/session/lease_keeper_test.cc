// A lease is renewed as long as it is kept, also after others that lasted
// longer, and by a thread that all of them share. One that cannot be given back
// is given back later.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/forwarding_store.h"
#include "weft/session/lease_keeper_internal.h"

namespace weft::session {
namespace {

using ::testing::ElementsAre;

using catalog::testing::Soon;

// Counts renewals and answers them as it is told.
class CountingStore : public catalog::ForwardingStore {
 public:
  CountingStore() : ForwardingStore(catalog::MakeMemoryStore({})) {}

  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline /*deadline*/) override {
    if (auto meanwhile = std::exchange(in_renewal, nullptr)) meanwhile();
    const std::lock_guard lock(mutex_);
    ++renewals_[lease_id];
    threads_.insert(std::this_thread::get_id());
    changed_.notify_all();
    return lease_id == forgotten_ ? absl::NotFoundError("no such lease")
                                  : absl::OkStatus();
  }
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline /*deadline*/) override {
    const std::lock_guard lock(mutex_);
    releases_.push_back({lease_id, committed, fenced_reason});
    changed_.notify_all();
    if (answers_.empty()) return absl::OkStatus();
    const absl::Status answer = answers_.front();
    answers_.erase(answers_.begin());
    return answer;
  }
  // In the next renewal, once.
  std::function<void()> in_renewal;
  void Forget(const std::string& lease_id) { forgotten_ = lease_id; }
  // To releases, in this order; OK after that.
  void Answer(std::vector<absl::Status> answers) {
    answers_ = std::move(answers);
  }

  // Until `lease_id` has been renewed so often.
  bool AwaitRenewals(const std::string& lease_id, int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, Soon().Remaining(),
                             [&] { return renewals_[lease_id] >= count; });
  }
  struct Release {
    std::string lease_id;
    bool committed = false;
    std::string fenced_reason;
    bool operator==(const Release&) const = default;
  };
  // So many, or fewer if it takes too long.
  std::vector<Release> AwaitReleases(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, Soon().Remaining(),
                      [&] { return releases_.size() >= count; });
    return releases_;
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
  std::vector<absl::Status> answers_;
  std::vector<Release> releases_;
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

// It stayed in the catalog: the next update of its publishers, from which
// nothing was cut off, waited for it until their own deadline.
TEST(LeaseKeeperTest, OneThatNobodyHeardIsGivenBackLater) {
  CountingStore store;
  store.Answer({absl::DeadlineExceededError("silent"),
                absl::UnavailableError("away"),
                absl::DeadlineExceededError("silent")});
  LeaseKeeper keeper(store);
  const catalog::Lease lease = LeaseOf("l1", std::chrono::seconds(5));
  EXPECT_EQ(
      keeper.Release(lease, /*committed=*/false, "it is torn", Soon()).code(),
      absl::StatusCode::kDeadlineExceeded);
  // As not committed, and not as fenced: it may have healed since.
  EXPECT_THAT(store.AwaitReleases(4),
              ElementsAre(CountingStore::Release{"l1", false, "it is torn"},
                          CountingStore::Release{"l1", false, ""},
                          CountingStore::Release{"l1", false, ""},
                          CountingStore::Release{"l1", false, ""}));
  // The thread has still time for what is kept.
  const LeaseKeeper::Kept kept(keeper, LeaseOf("l2", kShort));
  EXPECT_TRUE(store.AwaitRenewals("l2", 3));
  EXPECT_EQ(store.AwaitReleases(4).size(), 4u);
}

TEST(LeaseKeeperTest, ACommitThatNobodyHeardIsNotToldLater) {
  CountingStore store;
  store.Answer({absl::UnavailableError("away")});
  LeaseKeeper keeper(store);
  const catalog::Lease lease = LeaseOf("l1", std::chrono::seconds(5));
  EXPECT_FALSE(keeper.Release(lease, /*committed=*/true, "", Soon()).ok());
  EXPECT_THAT(store.AwaitReleases(2),
              ElementsAre(CountingStore::Release{"l1", true, ""},
                          CountingStore::Release{"l1", false, ""}));
}

TEST(LeaseKeeperTest, OneThatTheCatalogRefusesIsNotGivenBackAgain) {
  CountingStore store;
  store.Answer({absl::FailedPreconditionError("it was revoked")});
  LeaseKeeper keeper(store);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      keeper.Release(LeaseOf("l1", kShort), /*committed=*/true, "", Soon())));
  const LeaseKeeper::Kept kept(keeper, LeaseOf("l2", kShort));
  EXPECT_TRUE(store.AwaitRenewals("l2", 3));
  EXPECT_EQ(store.AwaitReleases(1).size(), 1u);
}

// Its end put off what was asked for: to a third of the lease's time.
TEST(LeaseKeeperTest, OneThatIsAskedForDuringAnotherIsMadeAfterIt) {
  CountingStore store;
  LeaseKeeper keeper(store);
  store.in_renewal = [&keeper] { keeper.RenewNow(); };
  const LeaseKeeper::Kept kept(
      keeper, {.lease_id = "long", .lasts = std::chrono::hours(1)});
  keeper.RenewNow();
  EXPECT_TRUE(store.AwaitRenewals("long", 2));
}

TEST(LeaseKeeperTest, RenewsAtOnceWhenAskedTo) {
  CountingStore store;
  LeaseKeeper keeper(store);
  keeper.RenewNow();  // of nothing
  const LeaseKeeper::Kept kept(
      keeper, {.lease_id = "long", .lasts = std::chrono::hours(1)});
  keeper.RenewNow();
  EXPECT_TRUE(store.AwaitRenewals("long", 1));
  keeper.RenewNow();
  EXPECT_TRUE(store.AwaitRenewals("long", 2));
}

}  // namespace
}  // namespace weft::session
