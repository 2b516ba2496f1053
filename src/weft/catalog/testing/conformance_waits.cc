// Watches, waits and deadlines.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "weft/catalog/testing/conformance.h"

namespace weft::catalog::testing {
namespace {

using ::absl::StatusCode;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST_P(StoreConformanceTest, WatchBeginsWithWhatExists) {
  const std::vector<Member> mesh = JoinMesh(1);
  PublishAll(mesh, 1);
  PublishAll(mesh, 2);
  const auto watch = Watch();
  const auto first = watch->Next(Soon());
  ASSERT_EQ(first.status(), absl::OkStatus());
  EXPECT_EQ(first->version, Version(1));
  EXPECT_EQ(first->state, VersionState::kGone);
  const auto second = watch->Next(Soon());
  ASSERT_EQ(second.status(), absl::OkStatus());
  EXPECT_EQ(second->version, Version(2));
  EXPECT_EQ(second->state, VersionState::kReady);
  EXPECT_EQ(watch->Next(Passed()).status().code(),
            StatusCode::kDeadlineExceeded);
}

TEST_P(StoreConformanceTest, WatchSeesEveryChangeInOrder) {
  const auto watch = Watch();
  std::vector<Member> mesh = JoinMesh(2);
  const Member receiver = Join(ReceiverInfo());
  const auto expect_next = [&](uint64_t step, VersionState state,
                               int64_t ranks) {
    const auto record = watch->Next(Soon());
    ASSERT_EQ(record.status(), absl::OkStatus());
    EXPECT_EQ(record->version, Version(step));
    EXPECT_EQ(record->state, state) << ToString(record->state);
    EXPECT_EQ(record->ranks_published, ranks);
  };
  for (uint64_t step = 1; step <= 3; ++step) {
    ASSERT_TRUE(store().PublishShard(mesh[0].id(), step, Soon()).ok());
    expect_next(step, VersionState::kStaging, 1);
    ASSERT_TRUE(store().PublishShard(mesh[1].id(), step, Soon()).ok());
    expect_next(step, VersionState::kReady, 2);
    const std::string lease = AcquireLease(receiver, Version(step));
    std::thread update(
        [&] { EXPECT_TRUE(store().BeginUpdate(mesh[0].id(), Soon()).ok()); });
    expect_next(step, VersionState::kRetiring, 2);
    EXPECT_EQ(store().ReleaseLease(lease, true, "", Soon()), absl::OkStatus());
    expect_next(step, VersionState::kGone, 2);
    update.join();
  }
  ASSERT_TRUE(store().PublishShard(mesh[0].id(), 4, Soon()).ok());
  expect_next(4, VersionState::kStaging, 1);
  mesh[1].attachment.reset();
  expect_next(4, VersionState::kStaging, 1);  // its source set has changed
  mesh[0].attachment.reset();
  expect_next(4, VersionState::kGone, 1);
  EXPECT_EQ(watch->Next(Passed()).status().code(),
            StatusCode::kDeadlineExceeded);
}

TEST_P(StoreConformanceTest, WatchSeesItsModelOnly) {
  const auto watch = Watch();
  WorkerInfo info = PublisherInfo(0, 1);
  info.model = "another";
  const Member publisher_of_another = Join(info);
  const Member publisher = Join(PublisherInfo(0, 1));
  ASSERT_TRUE(store().PublishShard(publisher_of_another.id(), 1, Soon()).ok());
  ASSERT_TRUE(store().PublishShard(publisher.id(), 2, Soon()).ok());
  EXPECT_EQ(watch->Next(Soon())->version, Version(2));
  EXPECT_EQ(store().WatchVersions("", Soon()).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store().WatchVersions("a b", Soon()).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_P(StoreConformanceTest, CancelEndsAWaitingNext) {
  const auto watch = Watch();
  absl::Status ended;
  std::thread reader([&] { ended = watch->Next(Soon()).status(); });
  watch->Cancel();
  reader.join();
  EXPECT_EQ(ended.code(), StatusCode::kCancelled);
  EXPECT_EQ(watch->Next(Soon()).status().code(), StatusCode::kCancelled);
}

TEST_P(StoreConformanceTest, WakeTellsOfEveryRecord) {
  std::mutex mutex;
  std::map<VersionId, VersionState> seen;
  std::atomic<int> wakes = 0;
  std::condition_variable changed;
  const auto watch = Watch();
  watch->SetWake([&] {
    ++wakes;
    const std::lock_guard lock(mutex);
    for (auto next = watch->Next(Passed()); next.ok();
         next = watch->Next(Passed())) {
      seen[next->version] = next->state;
    }
    changed.notify_all();
  });
  EXPECT_GE(wakes, 1);
  const std::vector<Member> mesh = JoinMesh(1);
  PublishAll(mesh, 1);
  PublishAll(mesh, 2);
  {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, Soon().Remaining(), [&] {
      return seen.contains(Version(2)) &&
             seen[Version(1)] == VersionState::kGone;
    }));
  }
  watch->SetWake(nullptr);
  const int before = wakes;
  PublishAll(mesh, 3);
  EXPECT_EQ(watch->Next(Soon()).status(), absl::OkStatus());
  EXPECT_EQ(wakes, before);
}

TEST_P(StoreConformanceTest, WaitForReadyOfTheNewest) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const auto ready = WaitForReady(store(), kModel, nullptr, nullptr, Soon());
  ASSERT_EQ(ready.status(), absl::OkStatus());
  EXPECT_EQ(ready->version, Version(1));
  // Several threads wait for the next one.
  const VersionId have = Version(1);
  std::vector<absl::StatusOr<VersionRecord>> results(4, absl::UnknownError(""));
  std::vector<std::thread> waiters;
  for (size_t i = 0; i < results.size(); ++i) {
    waiters.emplace_back([&, i] {
      CatalogStore& mine = i % 2 == 0 ? store() : other();
      results[i] = WaitForReady(mine, kModel, nullptr, &have, Soon());
    });
  }
  PublishAll(mesh, 2);
  for (std::thread& waiter : waiters) waiter.join();
  for (const auto& result : results) {
    ASSERT_EQ(result.status(), absl::OkStatus());
    EXPECT_EQ(result->version, Version(2));
  }
  // A run with a smaller name is newer if it has taken over.
  const std::vector<Member> next = JoinMesh(1, 0, "ant");
  PublishAll(next, 1);
  EXPECT_EQ(WaitForReady(store(), kModel, nullptr, &have, Soon())->version,
            Version(1, 0, "ant"));
}

TEST_P(StoreConformanceTest, WaitForReadyOfOneVersion) {
  const std::vector<Member> mesh = JoinMesh(1);
  const VersionId wanted = Version(2);
  absl::StatusOr<VersionRecord> result = absl::UnknownError("");
  std::thread waiter([&] {
    result = WaitForReady(other(), kModel, &wanted, nullptr, Soon());
  });
  PublishAll(mesh, 1);
  PublishAll(mesh, 2);
  waiter.join();
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_EQ(result->version, wanted);
  PublishAll(mesh, 3);
  const absl::Status gone =
      WaitForReady(store(), kModel, &wanted, nullptr, Soon()).status();
  EXPECT_EQ(gone.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(gone.message().find("run:0:2"), std::string::npos) << gone;
  EXPECT_NE(gone.message().find("step 3"), std::string::npos) << gone;
}

// What a wait in vain says. Over a network the first records take their time to
// come: one that has not heard of `part` is made again, and longer.
std::string SaidInVain(CatalogStore& store, const VersionId* exact,
                       const VersionId* newer, const std::string& part) {
  const base::Deadline patience = Soon();
  std::chrono::milliseconds time(100);
  std::string said;
  do {
    const absl::Status status =
        WaitForReady(store, kModel, exact, newer, base::Deadline::After(time))
            .status();
    EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded) << status;
    said = std::string(status.message());
    time *= 2;
  } while (said.find(part) == std::string::npos && !patience.Passed());
  return said;
}

TEST_P(StoreConformanceTest, WaitForReadySaysWhatItSaw) {
  const auto has = [this](const VersionId* exact, const VersionId* newer,
                          const std::string& part) {
    EXPECT_THAT(SaidInVain(store(), exact, newer, part), HasSubstr(part));
  };
  const VersionId third = Version(3);
  EXPECT_THAT(SaidInVain(store(), nullptr, nullptr, ""),
              MatchesRegex("model \"lab/model-1.0\" has no READY version after "
                           "[0-9.]+ s; nothing has been published"));
  has(&third, nullptr, "version run:0:3 of model \"lab/model-1.0\"");
  has(&third, nullptr, "does not know it");
  const std::vector<Member> mesh = JoinMesh(4);
  PublishAll(mesh, 2);
  ASSERT_TRUE(store().PublishShard(mesh[0].id(), 3, Soon()).ok());
  ASSERT_TRUE(store().PublishShard(mesh[3].id(), 3, Soon()).ok());
  has(nullptr, nullptr, "newest is run:0:3 STAGING with 2 of 4 ranks");
  has(&third, nullptr, "it is run:0:3 STAGING with 2 of 4 ranks");
  ASSERT_TRUE(store().PublishShard(mesh[1].id(), 3, Soon()).ok());
  ASSERT_TRUE(store().PublishShard(mesh[2].id(), 3, Soon()).ok());
  has(nullptr, &third, "no READY version newer than run:0:3");
  has(nullptr, &third, "newest is run:0:3 READY");
}

// A publisher whose connection broke, and the catalog and the process live on:
// what it had published stays GONE, and all say why and what heals it.
TEST_P(StoreConformanceTest, AVersionThatWentWithAConnectionSaysWhatHealsIt) {
  std::vector<Member> mesh = JoinMesh(2, 1);
  PublishAll(mesh, 7);
  const VersionId seventh = Version(7, 1);
  // Ends when it has heard that the version is GONE.
  const auto wait_for_seventh = [&] {
    return std::string(WaitForReady(other(), kModel, &seventh, nullptr, Soon())
                           .status()
                           .message());
  };
  const auto watch = Watch();
  mesh[1].attachment.reset();
  EXPECT_EQ(
      wait_for_seventh(),
      "version run:1:7 of model \"lab/model-1.0\" is GONE: publisher rank "
      "1 died or lost its connection; the next step heals it");
  // Until it registers anew nobody knows that it lives.
  WorkerInfo back = PublisherInfo(1, 2, 1);
  back.rejoins = true;
  mesh[1] = Join(back);
  const std::string healed_by =
      "publisher rank 1 lost its connection and is back; the next step heals "
      "it";
  EXPECT_EQ(Find(seventh).reason, healed_by);
  AwaitRecord(*watch, [&](const VersionRecord& record) {
    return record.state == VersionState::kGone && record.reason == healed_by;
  });
  EXPECT_EQ(wait_for_seventh(),
            "version run:1:7 of model \"lab/model-1.0\" is GONE: " + healed_by);
  const std::string newest = "newest is run:1:7 GONE (" + healed_by + ")";
  EXPECT_THAT(SaidInVain(other(), nullptr, nullptr, newest), HasSubstr(newest));
  const absl::Status refused =
      store().RepublishShard(mesh[1].id(), 7, Soon()).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.message(),
            "version run:1:7 of model \"lab/model-1.0\" is GONE: " + healed_by);
  PublishAll(mesh, 8);
  EXPECT_EQ(WaitForReady(other(), kModel, nullptr, nullptr, Soon())->version,
            Version(8, 1));
}

TEST_P(StoreConformanceTest, EveryCallHasADeadline) {
  const Member publisher = Join(PublisherInfo(0, 1));
  const Member receiver = Join(ReceiverInfo());
  ASSERT_TRUE(store().PublishShard(publisher.id(), 1, Soon()).ok());
  const std::string lease = AcquireLease(receiver, Version(1));
  const std::string digest = publisher.info.placement_digest_hex;
  const std::vector<absl::Status> results = {
      store().PutPlacement(digest, PlacementBytes(), Passed()),
      store().GetPlacement(digest, Passed()).status(),
      store().Register(ReceiverInfo(), "", Passed()).status(),
      store().Attach(receiver.id(), Passed()).status(),
      store().PublishShard(publisher.id(), 2, Passed()).status(),
      store().WatchVersions(kModel, Passed()).status(),
      store().GetSources(kModel, Passed()).status(),
      store().AcquireLease(receiver.id(), Version(1), Passed()).status(),
      store().ReleaseLease(lease, true, "", Passed()),
      store().ListVersions(kModel, Passed()).status(),
      store().ListWorkers(kModel, Passed()).status(),
      WaitForReady(store(), kModel, nullptr, nullptr, Passed()).status(),
  };
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].code(), StatusCode::kDeadlineExceeded)
        << i << ": " << results[i];
  }
  // And none of them has done anything.
  EXPECT_EQ(Find(Version(1)).leases, 1);
  EXPECT_EQ(store().ListVersions(kModel, Soon())->size(), 1u);
  EXPECT_EQ(store().ListWorkers(kModel, Soon())->size(), 2u);
}

// Publishers overwrite one memory in lock-step; receivers read it under
// leases. A receiver whose lease held must have read one version only.
TEST_P(StoreConformanceTest, ALeaseKeepsTheMemoryStill) {
  constexpr int64_t kRanks = 3;
  constexpr uint64_t kSteps = 25;
  constexpr int kReceivers = 3;
  std::vector<Member> mesh = JoinMesh(kRanks);
  std::vector<std::atomic<uint64_t>> memory(kRanks);
  std::barrier<> all_published(kRanks);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      CatalogStore& mine = rank % 2 == 0 ? store() : other();
      for (uint64_t step = 1; step <= kSteps; ++step) {
        EXPECT_EQ(mine.BeginUpdate(mesh[rank].id(), Soon()).status(),
                  absl::OkStatus());
        memory[rank] = 0;
        memory[rank] = step;
        EXPECT_EQ(mine.PublishShard(mesh[rank].id(), step, Soon()).status(),
                  absl::OkStatus());
        all_published.arrive_and_wait();
      }
    });
  }
  std::atomic<int> reads = 0;
  for (int i = 0; i < kReceivers; ++i) {
    threads.emplace_back([&, i] {
      CatalogStore& mine = i % 2 == 0 ? store() : other();
      const Member receiver = Join(ReceiverInfo(i));
      VersionId have = Version(0);
      while (have.step < kSteps) {
        const auto ready = WaitForReady(mine, kModel, nullptr, &have, Soon());
        ASSERT_EQ(ready.status(), absl::OkStatus());
        have = ready->version;
        const auto lease = mine.AcquireLease(receiver.id(), have, Soon());
        // It may have been withdrawn since; the last one is not.
        if (!lease.ok() && have.step < kSteps) continue;
        ASSERT_EQ(lease.status(), absl::OkStatus());
        for (int again = 0; again < 2; ++again) {
          for (const auto& value : memory) EXPECT_EQ(value, have.step);
        }
        EXPECT_EQ(mine.ReleaseLease(lease->lease_id, true, "", Soon()),
                  absl::OkStatus());
        ++reads;
      }
      EXPECT_EQ(FindWorker(receiver.id()).committed, Version(kSteps));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(reads, kReceivers);
}

}  // namespace
}  // namespace weft::catalog::testing
