// Versions and leases.
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "weft/catalog/testing/conformance.h"

namespace weft::catalog::testing {
namespace {

using ::absl::StatusCode;

TEST_P(StoreConformanceTest, ReadyWhenEveryRankHasPublished) {
  const std::vector<Member> mesh = JoinMesh(3);
  const auto watch = Watch();
  for (int64_t rank = 0; rank < 3; ++rank) {
    const auto record = store().PublishShard(mesh[rank].id(), 5, Soon());
    ASSERT_EQ(record.status(), absl::OkStatus());
    const VersionRecord seen = *watch->Next(Soon());
    for (const VersionRecord& told : {*record, seen, Find(Version(5))}) {
      EXPECT_EQ(told.model, kModel);
      EXPECT_EQ(told.version, Version(5));
      EXPECT_EQ(told.state,
                rank < 2 ? VersionState::kStaging : VersionState::kReady);
      EXPECT_EQ(told.ranks_published, rank + 1);
      EXPECT_EQ(told.ranks_expected, 3);
      EXPECT_EQ(told.leases, 0);
      EXPECT_EQ(told.reason, "");
      EXPECT_EQ(told.source_set,
                store().GetSources(kModel, Soon())->source_set);
    }
  }
}

TEST_P(StoreConformanceTest, StepsOfARankGrow) {
  std::vector<Member> mesh = JoinMesh(2);
  PublishAll(mesh, 5);
  for (const uint64_t step : {uint64_t{5}, uint64_t{4}, uint64_t{0}}) {
    const auto refused = store().PublishShard(mesh[0].id(), step, Soon());
    EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
    EXPECT_NE(refused.status().message().find("step 5"), std::string::npos);
  }
  EXPECT_EQ(Find(Version(5)).state, VersionState::kReady);
  // Also when the rank has come back in the same epoch.
  mesh[0].attachment.reset();
  mesh[0] = Join(PublisherInfo(0, 2));
  EXPECT_EQ(store().PublishShard(mesh[0].id(), 5, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  PublishAll(mesh, ~uint64_t{0});
  EXPECT_EQ(Find(Version(~uint64_t{0})).state, VersionState::kReady);
  // A new epoch starts anew.
  const std::vector<Member> next = JoinMesh(1, 1);
  PublishAll(next, 0);
  EXPECT_EQ(Find(Version(0, 1)).state, VersionState::kReady);
}

TEST_P(StoreConformanceTest, StepsGrowEvenWhenARunComesBack) {
  { PublishAll(JoinMesh(1, 0, "a"), 5); }
  { PublishAll(JoinMesh(1, 0, "b"), 1); }
  const std::vector<Member> back = JoinMesh(1, 0, "a");
  EXPECT_EQ(store().PublishShard(back[0].id(), 5, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  PublishAll(back, 6);
  EXPECT_EQ(Find(Version(6, 0, "a")).state, VersionState::kReady);
}

// Needs no person when a trainer means it, and must not pass unseen when it has
// lost its checkpoint.
TEST_P(StoreConformanceTest, AStepBackIsSaidWhenItBecomesReady) {
  { PublishAll(JoinMesh(2), 7); }
  {
    // Half of a version is nothing that anybody served.
    std::vector<Member> half = JoinMesh(2, 1);
    ASSERT_TRUE(store().PublishShard(half[0].id(), 9, Soon()).ok());
  }
  {
    const std::vector<Member> back = JoinMesh(2, 2);
    PublishAll(back, 3);
    EXPECT_EQ(Find(Version(3, 2)).reason,
              "step 3 follows the higher step 7 of run:0:7: the trainer has "
              "gone back to a checkpoint, or to initial weights");
    // Only the first one of an epoch is a step back.
    PublishAll(back, 4);
    EXPECT_EQ(Find(Version(4, 2)).reason, "");
  }
  {
    const std::vector<Member> on = JoinMesh(1, 3);
    PublishAll(on, 4);
    EXPECT_EQ(Find(Version(4, 3)).reason, "") << "the same step again";
  }
  const std::vector<Member> other_run = JoinMesh(1, 0, "other");
  PublishAll(other_run, 50);
  EXPECT_EQ(Find(Version(50, 0, "other")).reason,
            "step 50 of run \"other\" follows step 4 of another run, run:3:4");
  PublishAll(other_run, 51);
  EXPECT_EQ(Find(Version(51, 0, "other")).reason, "");
}

TEST_P(StoreConformanceTest, PublishingWithdrawsTheOlderVersion) {
  const std::vector<Member> mesh = JoinMesh(2);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease = AcquireLease(receiver, Version(1));
  ASSERT_EQ(store().PublishShard(mesh[1].id(), 2, Soon()).status(),
            absl::OkStatus());
  const VersionRecord gone = Find(Version(1));
  EXPECT_EQ(gone.state, VersionState::kGone);
  EXPECT_EQ(gone.leases, 0);
  EXPECT_NE(gone.reason.find("rank 1"), std::string::npos) << gone.reason;
  EXPECT_EQ(Find(Version(2)).state, VersionState::kStaging);
  EXPECT_EQ(store().ReleaseLease(lease, true, "", Soon()).code(),
            StatusCode::kFailedPrecondition);
}

TEST_P(StoreConformanceTest, LateRankLearnsThatTheVersionIsGone) {
  const std::vector<Member> mesh = JoinMesh(2);
  ASSERT_EQ(store().PublishShard(mesh[0].id(), 1, Soon()).status(),
            absl::OkStatus());
  ASSERT_EQ(store().PublishShard(mesh[0].id(), 2, Soon()).status(),
            absl::OkStatus());
  const auto late = store().PublishShard(mesh[1].id(), 1, Soon());
  ASSERT_EQ(late.status(), absl::OkStatus());
  EXPECT_EQ(late->state, VersionState::kGone);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  const auto next = store().PublishShard(mesh[1].id(), 2, Soon());
  ASSERT_EQ(next.status(), absl::OkStatus());
  EXPECT_EQ(next->state, VersionState::kReady);
}

TEST_P(StoreConformanceTest, DeathOfAPublisherWithdrawsReady) {
  std::vector<Member> mesh = JoinMesh(3);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease = AcquireLease(receiver, Version(1));
  const uint64_t before = Find(Version(1)).source_set;
  const auto watch = Watch();
  mesh[2].attachment.reset();
  const VersionRecord gone =
      AwaitState(*watch, Version(1), VersionState::kGone);
  EXPECT_EQ(gone.reason,
            "publisher rank 2 died or lost its connection; the next step heals "
            "it");
  EXPECT_NE(store().GetSources(kModel, Soon())->source_set, before);
  const absl::Status released = other().ReleaseLease(lease, true, "", Soon());
  EXPECT_EQ(released.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(released.message().find("publisher rank 2 died"), std::string::npos)
      << released;
  EXPECT_EQ(FindWorker(receiver.id()).committed, VersionId());
  // The rank comes back, and the mesh goes on.
  mesh[2] = Join(PublisherInfo(2, 3));
  PublishAll(mesh, 2);
  AwaitState(*watch, Version(2), VersionState::kReady);
}

TEST_P(StoreConformanceTest, DeathOfAPublisherWithdrawsStaging) {
  std::vector<Member> mesh = JoinMesh(3);
  ASSERT_EQ(store().PublishShard(mesh[0].id(), 1, Soon()).status(),
            absl::OkStatus());
  ASSERT_EQ(store().PublishShard(mesh[1].id(), 1, Soon()).status(),
            absl::OkStatus());
  const uint64_t before = Find(Version(1)).source_set;
  mesh[2].attachment.reset();  // has not published it
  EXPECT_EQ(Find(Version(1)).state, VersionState::kStaging);
  EXPECT_NE(Find(Version(1)).source_set, before);
  mesh[1].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  EXPECT_EQ(Find(Version(1)).reason,
            "publisher rank 1 died or lost its connection; the next step heals "
            "it");
}

// A trainer that was stopped on purpose read as one that had died.
TEST_P(StoreConformanceTest, AWorkerThatEndsInOrderHasEndedAndNotDied) {
  std::vector<Member> mesh = JoinMesh(2);
  Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  for (Member* const each : {&receiver, &mesh[1]}) {
    each->attachment->EndInOrder();
    // Until it is destroyed nothing has ended.
    EXPECT_EQ(each->attachment->Health(), absl::OkStatus());
    each->attachment.reset();
  }
  EXPECT_EQ(FindWorker(receiver.id()).death_reason,
            "receiver rank 0 has ended");
  EXPECT_EQ(FindWorker(mesh[1].id()).death_reason,
            "publisher rank 1 has ended");
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  EXPECT_EQ(Find(Version(1)).reason,
            "publisher rank 1 has ended; the next step heals it");
}

TEST_P(StoreConformanceTest, NewestLeaseIsOfTheNewestReadyVersion) {
  const Member receiver = Join(ReceiverInfo());
  const auto newest = [&](const VersionId* newer_than) {
    return store().AcquireNewestLease(receiver.id(), newer_than, Soon());
  };
  EXPECT_EQ(newest(nullptr).status().code(), StatusCode::kNotFound);
  const std::vector<Member> mesh = JoinMesh(2);
  for (const uint64_t step : {9, 10}) {
    ASSERT_EQ(store().PublishShard(mesh[0].id(), step, Soon()).status(),
              absl::OkStatus());
    EXPECT_EQ(newest(nullptr).status().code(), StatusCode::kNotFound);
    ASSERT_EQ(store().PublishShard(mesh[1].id(), step, Soon()).status(),
              absl::OkStatus());
    const auto lease = newest(nullptr);
    ASSERT_EQ(lease.status(), absl::OkStatus());
    EXPECT_EQ(lease->version.version, Version(step));
    EXPECT_EQ(lease->version.state, VersionState::kReady);
    EXPECT_EQ(store().ReleaseLease(lease->lease_id, true, "", Soon()),
              absl::OkStatus());
  }
  const VersionId before = Version(9);
  const VersionId now = Version(10);
  const VersionId other_run = Version(99, 0, "another");
  EXPECT_EQ(newest(&before)->version.version, now);
  EXPECT_EQ(newest(&now).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(newest(&other_run)->version.version, now);
  EXPECT_EQ(
      store().AcquireNewestLease(mesh[0].id(), nullptr, Soon()).status().code(),
      StatusCode::kInvalidArgument);
  const VersionId bad = Version(1, 0, "a b");
  EXPECT_EQ(newest(&bad).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(StoreConformanceTest, LeaseNeedsAReadyVersion) {
  const Member receiver = Join(ReceiverInfo());
  EXPECT_EQ(
      store().AcquireLease(receiver.id(), Version(1), Soon()).status().code(),
      StatusCode::kNotFound);
  const std::vector<Member> mesh = JoinMesh(2);
  EXPECT_EQ(
      store().AcquireLease(receiver.id(), Version(1), Soon()).status().code(),
      StatusCode::kNotFound);
  ASSERT_EQ(store().PublishShard(mesh[0].id(), 1, Soon()).status(),
            absl::OkStatus());
  const auto staging = store().AcquireLease(receiver.id(), Version(1), Soon());
  EXPECT_EQ(staging.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(staging.status().message().find("STAGING"), std::string::npos);
  ASSERT_EQ(store().PublishShard(mesh[1].id(), 1, Soon()).status(),
            absl::OkStatus());
  const auto lease = store().AcquireLease(receiver.id(), Version(1), Soon());
  ASSERT_EQ(lease.status(), absl::OkStatus());
  EXPECT_EQ(lease->version.version, Version(1));
  EXPECT_EQ(lease->version.state, VersionState::kReady);
  EXPECT_EQ(lease->version.leases, 1);
  EXPECT_EQ(lease->version.source_set,
            store().GetSources(kModel, Soon())->source_set);
  ASSERT_EQ(store().BeginUpdate(mesh[0].id(), Passed()).status(),
            absl::OkStatus());
  EXPECT_EQ(
      store().AcquireLease(receiver.id(), Version(1), Soon()).status().code(),
      StatusCode::kFailedPrecondition);
  EXPECT_EQ(store()
                .AcquireLease(receiver.id(), Version(1, 0, "a b"), Soon())
                .status()
                .code(),
            StatusCode::kInvalidArgument);
}

TEST_P(StoreConformanceTest, LeasesAreCountedAndReleasedOnce) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member one = Join(ReceiverInfo(0));
  const Member two = Join(ReceiverInfo(1));
  PublishAll(mesh, 1);
  const std::string first = AcquireLease(one, Version(1));
  const std::string second = AcquireLease(two, Version(1));
  EXPECT_NE(first, second);
  EXPECT_EQ(Find(Version(1)).leases, 2);
  EXPECT_EQ(other().ReleaseLease(first, true, "", Soon()), absl::OkStatus());
  EXPECT_EQ(Find(Version(1)).leases, 1);
  EXPECT_EQ(store().ReleaseLease(first, true, "", Soon()).code(),
            StatusCode::kNotFound);
  EXPECT_EQ(store().ReleaseLease(second, false, "", Soon()), absl::OkStatus());
  EXPECT_EQ(Find(Version(1)).leases, 0);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
}

TEST_P(StoreConformanceTest, ReleaseRecordsWhatTheReceiverServes) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  const auto release = [&](uint64_t step, bool committed,
                           const std::string& reason) {
    const std::string lease = AcquireLease(receiver, Version(step));
    EXPECT_EQ(store().ReleaseLease(lease, committed, reason, Soon()),
              absl::OkStatus());
    return FindWorker(receiver.id());
  };
  PublishAll(mesh, 1);
  WorkerRecord record = release(1, true, "");
  EXPECT_EQ(record.committed, Version(1));
  EXPECT_EQ(record.fenced_reason, "");
  PublishAll(mesh, 2);
  record = release(2, false, "digest of q_proj differs \xff\n");
  EXPECT_EQ(record.committed, Version(1));
  EXPECT_EQ(record.fenced_reason, "digest of q_proj differs ??");
  record = release(2, false, "");
  EXPECT_EQ(record.fenced_reason, "digest of q_proj differs ??");
  record = release(2, true, "");
  EXPECT_EQ(record.committed, Version(2));
  EXPECT_EQ(record.fenced_reason, "");
  const std::string lease = AcquireLease(receiver, Version(2));
  EXPECT_EQ(store().ReleaseLease(lease, true, "torn", Soon()).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(
      store().ReleaseLease(lease, false, std::string(100000, 'x'), Soon()),
      absl::OkStatus());
  EXPECT_EQ(FindWorker(receiver.id()).fenced_reason.size(), 4096u);
}

TEST_P(StoreConformanceTest, AReceiverReportsWhatItServesWithoutALease) {
  const std::vector<Member> mesh = JoinMesh(1);
  Member receiver = Join(ReceiverInfo());
  const VersionId kept = Version(1);
  EXPECT_EQ(store().ReportServing(receiver.id(), &kept, "", Soon()),
            absl::OkStatus());
  EXPECT_EQ(FindWorker(receiver.id()).committed, kept);
  EXPECT_EQ(other().ReportServing(receiver.id(), nullptr, "torn\n", Soon()),
            absl::OkStatus());
  EXPECT_EQ(FindWorker(receiver.id()).committed, kept);
  EXPECT_EQ(FindWorker(receiver.id()).fenced_reason, "torn?");
  EXPECT_EQ(store().ReportServing(receiver.id(), &kept, "", Soon()),
            absl::OkStatus());
  EXPECT_EQ(FindWorker(receiver.id()).fenced_reason, "");
  // Neither or both; another role; a run without a name; nobody.
  EXPECT_EQ(store().ReportServing(receiver.id(), nullptr, "", Soon()).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store().ReportServing(receiver.id(), &kept, "torn", Soon()).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store().ReportServing(mesh[0].id(), &kept, "", Soon()).code(),
            StatusCode::kInvalidArgument);
  const VersionId nameless;
  EXPECT_EQ(store().ReportServing(receiver.id(), &nameless, "", Soon()).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store().ReportServing("nobody", &kept, "", Soon()).code(),
            StatusCode::kNotFound);
  receiver.attachment.reset();
  EXPECT_EQ(store().ReportServing(receiver.id(), &kept, "", Soon()).code(),
            StatusCode::kFailedPrecondition);
}

TEST_P(StoreConformanceTest, DeadReceiverLosesItsLeases) {
  const std::vector<Member> mesh = JoinMesh(1);
  Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease = AcquireLease(receiver, Version(1));
  AcquireLease(receiver, Version(1));
  receiver.attachment.reset();
  EXPECT_EQ(Find(Version(1)).leases, 0);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  EXPECT_EQ(store().ReleaseLease(lease, true, "", Soon()).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(FindWorker(receiver.id()).committed, VersionId());
  EXPECT_EQ(
      store().AcquireLease(receiver.id(), Version(1), Soon()).status().code(),
      StatusCode::kFailedPrecondition);
}

TEST_P(StoreConformanceTest, LeaseExpires) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string early = AcquireLease(receiver, Version(1));
  AdvanceClock(std::chrono::seconds(1));
  const std::string late = AcquireLease(receiver, Version(1));
  AdvanceClock(kLeaseDuration - std::chrono::seconds(1));
  EXPECT_EQ(Find(Version(1)).leases, 1);
  const absl::Status expired = store().ReleaseLease(early, true, "", Soon());
  EXPECT_EQ(expired.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(expired.message().find("600 s"), std::string::npos) << expired;
  EXPECT_EQ(store().ReleaseLease(late, true, "", Soon()), absl::OkStatus());
}

TEST_P(StoreConformanceTest, ARenewedLeaseOutlivesItsDuration) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const auto renewed = store().AcquireLease(receiver.id(), Version(1), Soon());
  ASSERT_EQ(renewed.status(), absl::OkStatus());
  EXPECT_EQ(renewed->lasts, kLeaseDuration);
  const std::string forgotten = AcquireLease(receiver, Version(1));
  // Three durations less some seconds, renewed now here and now there.
  for (int i = 0; i < 3; ++i) {
    AdvanceClock(kLeaseDuration - std::chrono::seconds(2));
    EXPECT_EQ(
        (i % 2 == 0 ? other() : store()).RenewLease(renewed->lease_id, Soon()),
        absl::OkStatus());
  }
  EXPECT_EQ(Find(Version(1)).leases, 1);
  EXPECT_EQ(store().RenewLease(forgotten, Soon()).code(),
            StatusCode::kFailedPrecondition);
  const auto left = store().ListLeases(kModel, Soon());
  ASSERT_EQ(left.status(), absl::OkStatus());
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ(left->front().lease_id, renewed->lease_id);
  EXPECT_EQ(left->front().expires_in, kLeaseDuration);
  // The last renewal counts, and what has expired is never renewed.
  AdvanceClock(kLeaseDuration);
  EXPECT_EQ(store().RenewLease(renewed->lease_id, Soon()).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(store().ReleaseLease(renewed->lease_id, true, "", Soon()).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(FindWorker(receiver.id()).committed, VersionId());
}

TEST_P(StoreConformanceTest, OnlyALeaseInForceIsRenewed) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string released = AcquireLease(receiver, Version(1));
  ASSERT_EQ(store().ReleaseLease(released, true, "", Soon()), absl::OkStatus());
  EXPECT_EQ(store().RenewLease(released, Soon()).code(), StatusCode::kNotFound);
  for (const char* unknown : {"", "l1", "l1.w1", "\xff\n"}) {
    EXPECT_EQ(store().RenewLease(unknown, Soon()).code(),
              StatusCode::kNotFound);
  }
  const std::string held = AcquireLease(receiver, Version(1));
  EXPECT_EQ(store().RenewLease(held, Passed()).code(),
            StatusCode::kDeadlineExceeded);
  // One whose publisher waits for it is renewed too.
  std::thread update([&] {
    EXPECT_EQ(store().BeginUpdate(mesh[0].id(), Soon()).status(),
              absl::OkStatus());
  });
  const auto watch = Watch();
  AwaitState(*watch, Version(1), VersionState::kRetiring);
  AdvanceClock(kLeaseDuration - std::chrono::seconds(1));
  EXPECT_EQ(other().RenewLease(held, Soon()), absl::OkStatus());
  AdvanceClock(kLeaseDuration - std::chrono::seconds(1));
  EXPECT_EQ(Find(Version(1)).state, VersionState::kRetiring);
  EXPECT_EQ(store().ReleaseLease(held, true, "", Soon()), absl::OkStatus());
  update.join();
  // Revoked by its publisher: never renewed.
  PublishAll(mesh, 2);
  const std::string revoked = AcquireLease(receiver, Version(2));
  ASSERT_EQ(*store().BeginUpdate(mesh[0].id(), Passed()), 1);
  const absl::Status refused = store().RenewLease(revoked, Soon());
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("revoked"), std::string::npos) << refused;
}

TEST_P(StoreConformanceTest, RevokedLeaseStillTellsThatItsHolderIsTorn) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease = AcquireLease(receiver, Version(1));
  const auto revoked = store().BeginUpdate(mesh[0].id(), Passed());
  ASSERT_EQ(revoked.status(), absl::OkStatus());
  EXPECT_EQ(*revoked, 1);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  const absl::Status released =
      store().ReleaseLease(lease, false, "torn", Soon());
  EXPECT_EQ(released.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(FindWorker(receiver.id()).fenced_reason, "torn");
}

TEST_P(StoreConformanceTest, UpdateOfNothingIsDoneAtOnce) {
  const std::vector<Member> mesh = JoinMesh(2);
  EXPECT_EQ(*store().BeginUpdate(mesh[0].id(), Soon()), 0);
  ASSERT_EQ(store().PublishShard(mesh[0].id(), 1, Soon()).status(),
            absl::OkStatus());
  // The other rank has published nothing, and takes nothing away.
  EXPECT_EQ(*store().BeginUpdate(mesh[1].id(), Soon()), 0);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kStaging);
  EXPECT_EQ(*store().BeginUpdate(mesh[0].id(), Soon()), 0);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  EXPECT_NE(Find(Version(1)).reason.find("rank 0"), std::string::npos);
  EXPECT_EQ(*store().BeginUpdate(mesh[0].id(), Soon()), 0);
}

TEST_P(StoreConformanceTest, UpdateWaitsForTheLastLease) {
  const std::vector<Member> mesh = JoinMesh(2);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string first = AcquireLease(receiver, Version(1));
  const std::string second = AcquireLease(receiver, Version(1));
  const auto watch = Watch();
  AwaitState(*watch, Version(1), VersionState::kReady);
  std::vector<absl::StatusOr<int64_t>> results(2, absl::UnknownError(""));
  std::vector<std::thread> updates;
  for (int rank = 0; rank < 2; ++rank) {
    updates.emplace_back([&, rank] {
      results[rank] = other().BeginUpdate(mesh[rank].id(), Soon());
    });
  }
  const VersionRecord retiring =
      AwaitState(*watch, Version(1), VersionState::kRetiring);
  EXPECT_NE(retiring.reason.find("rank"), std::string::npos);
  EXPECT_EQ(retiring.leases, 2);
  EXPECT_EQ(
      store().AcquireLease(receiver.id(), Version(1), Soon()).status().code(),
      StatusCode::kFailedPrecondition);
  EXPECT_EQ(store().ReleaseLease(first, true, "", Soon()), absl::OkStatus());
  EXPECT_EQ(Find(Version(1)).state, VersionState::kRetiring);
  EXPECT_EQ(store().ReleaseLease(second, true, "", Soon()), absl::OkStatus());
  for (std::thread& update : updates) update.join();
  for (const auto& result : results) {
    ASSERT_EQ(result.status(), absl::OkStatus());
    EXPECT_EQ(*result, 0);
  }
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  EXPECT_EQ(FindWorker(receiver.id()).committed, Version(1));
}

TEST_P(StoreConformanceTest, UpdateRevokesAtItsDeadline) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  AcquireLease(receiver, Version(1));
  AcquireLease(receiver, Version(1));
  const auto revoked = store().BeginUpdate(
      mesh[0].id(), base::Deadline::After(std::chrono::milliseconds(20)));
  ASSERT_EQ(revoked.status(), absl::OkStatus());
  EXPECT_EQ(*revoked, 2);
  const VersionRecord gone = Find(Version(1));
  EXPECT_EQ(gone.state, VersionState::kGone);
  EXPECT_NE(gone.reason.find("2 leases revoked"), std::string::npos)
      << gone.reason;
}

// A wait for leases ends with whatever ends the leases or the worker.
TEST_P(StoreConformanceTest, UpdateEndsWithItsReasonToWait) {
  enum class End { kReceiverDies, kOtherRankDies, kLeaseExpires, kOwnDeath };
  for (const End end : {End::kReceiverDies, End::kOtherRankDies,
                        End::kLeaseExpires, End::kOwnDeath}) {
    SCOPED_TRACE(static_cast<int>(end));
    const auto epoch = static_cast<uint64_t>(end);
    std::vector<Member> mesh = JoinMesh(2, epoch);
    Member receiver = Join(ReceiverInfo());
    PublishAll(mesh, 1);
    AcquireLease(receiver, Version(1, epoch));
    const auto watch = Watch();
    absl::StatusOr<int64_t> result = absl::UnknownError("");
    std::thread update(
        [&] { result = store().BeginUpdate(mesh[0].id(), Soon()); });
    AwaitState(*watch, Version(1, epoch), VersionState::kRetiring);
    switch (end) {
      case End::kReceiverDies:
        receiver.attachment.reset();
        break;
      case End::kOtherRankDies:
        mesh[1].attachment.reset();
        break;
      case End::kLeaseExpires:
        AdvanceClock(kLeaseDuration);
        Find(Version(1, epoch));
        break;
      case End::kOwnDeath:
        mesh[0].attachment.reset();
        break;
    }
    update.join();
    if (end == End::kOwnDeath) {
      EXPECT_EQ(result.status().code(), StatusCode::kFailedPrecondition);
    } else {
      ASSERT_EQ(result.status(), absl::OkStatus());
      EXPECT_EQ(*result, 0);
    }
    EXPECT_EQ(Find(Version(1, epoch)).state, VersionState::kGone);
  }
}

TEST_P(StoreConformanceTest, StaysSmallOverManyVersionsAndWorkers) {
  const Member receiver = Join(ReceiverInfo(7));
  const auto slow = Watch();
  uint64_t step = 0;
  for (int life = 0; life < 70; ++life) {
    const std::vector<Member> mesh = JoinMesh(1);
    for (int i = 0; i < 10; ++i) {
      PublishAll(mesh, ++step);
      AcquireLease(receiver, Version(step));
    }
  }
  const auto versions = store().ListVersions(kModel, Soon());
  ASSERT_EQ(versions->size(), 16u);
  EXPECT_EQ(versions->back().version, Version(step));
  EXPECT_EQ(versions->front().version, Version(step - 15));
  EXPECT_EQ(store().ListWorkers(kModel, Soon())->size(), 64u + 1u);
  // A watch that nobody has read tells of the newest ones last.
  AwaitState(*slow, Version(step), VersionState::kGone);
  EXPECT_EQ(slow->Next(Passed()).status().code(),
            StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace weft::catalog::testing
