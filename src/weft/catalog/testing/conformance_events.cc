// Events and what else a person sees.
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "weft/catalog/event.h"
#include "weft/catalog/testing/conformance.h"

namespace weft::catalog::testing {
namespace {

using Kinds = std::vector<EventKind>;

// All events of the test's model from the store's first on, numbers without a
// hole.
std::vector<Event> ReadAll(CatalogStore& store) {
  std::vector<Event> events;
  EventQuery query{.from = 1, .model = kModel, .max_events = 3};
  while (true) {
    const auto page = store.ReadEvents(query, Soon());
    EXPECT_EQ(page.status(), absl::OkStatus());
    if (!page.ok() || (page->events.empty() && page->next == query.from)) {
      return events;
    }
    EXPECT_EQ(page->missed, 0u);
    EXPECT_FALSE(page->restarted);
    for (const Event& event : page->events) {
      EXPECT_EQ(event.number, events.size() + 1);
      EXPECT_EQ(event.model, kModel);
      EXPECT_GT(event.unix_ns, 0);
      events.push_back(event);
    }
    query.from = page->next;
    query.log_id = page->log_id;
  }
}

Kinds KindsOf(const std::vector<Event>& events) {
  Kinds kinds;
  for (const Event& event : events) kinds.push_back(event.kind);
  return kinds;
}

TEST_P(StoreConformanceTest, EventsTellARefit) {
  const Member publisher = Join(PublisherInfo(0, 1));
  const Member receiver = Join(ReceiverInfo(3));
  PublishAll({}, 1);
  ASSERT_TRUE(store().PublishShard(publisher.id(), 7, Soon()).ok());
  const std::string lease = AcquireLease(receiver, Version(7));
  // A lease may be renewed any number of times: nobody wants to read that.
  ASSERT_TRUE(store().RenewLease(lease, Soon()).ok());
  ASSERT_TRUE(store().ReleaseLease(lease, true, "", Soon()).ok());
  ASSERT_TRUE(store().BeginUpdate(publisher.id(), Soon()).ok());
  // Nothing is said of what is refused.
  EXPECT_FALSE(store().AcquireLease(receiver.id(), Version(7), Soon()).ok());

  const std::vector<Event> events = ReadAll(other());
  EXPECT_EQ(KindsOf(events),
            (Kinds{EventKind::kWorkerRegistered, EventKind::kWorkerAttached,
                   EventKind::kWorkerRegistered, EventKind::kWorkerAttached,
                   EventKind::kShardPublished, EventKind::kVersionReady,
                   EventKind::kLeaseAcquired, EventKind::kCommitted,
                   EventKind::kLeaseReleased, EventKind::kVersionRetiring,
                   EventKind::kVersionGone}));
  ASSERT_EQ(events.size(), 11u);
  EXPECT_EQ(events[0].worker_id, publisher.id());
  EXPECT_EQ(events[0].role, Role::kPublisher);
  EXPECT_EQ(events[0].version.run_id, kRun);
  EXPECT_EQ(events[2].worker_id, receiver.id());
  EXPECT_EQ(events[2].generation, receiver.registration.generation);
  EXPECT_EQ(events[2].role, Role::kReceiver);
  EXPECT_EQ(events[2].rank, 3);
  EXPECT_EQ(events[5].version, Version(7));
  EXPECT_EQ(events[5].ranks_published, 1);
  EXPECT_EQ(events[6].lease_id, lease);
  EXPECT_EQ(events[6].lease_id, lease);
  EXPECT_EQ(events[7].worker_id, receiver.id());
  EXPECT_EQ(events[7].version, Version(7));
  EXPECT_EQ(events[10].reason, "publisher rank 0 updates its memory");
}

TEST_P(StoreConformanceTest, EventsTellOfRevocationsAndTakeovers) {
  std::vector<Member> mesh = JoinMesh(2);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease = AcquireLease(receiver, Version(1));
  const Member next = Join(PublisherInfo(0, 1, 5));
  EXPECT_FALSE(store().ReleaseLease(lease, true, "", Soon()).ok());
  EXPECT_FALSE(store().ReleaseLease(lease, false, "torn", Soon()).ok());

  std::vector<Event> events = ReadAll(store());
  ASSERT_GT(events.size(), 10u);
  events.erase(events.begin(), events.begin() + 6);  // registrations
  EXPECT_EQ(KindsOf(events),
            (Kinds{EventKind::kShardPublished, EventKind::kVersionStaging,
                   EventKind::kShardPublished, EventKind::kVersionReady,
                   EventKind::kLeaseAcquired, EventKind::kTakeover,
                   EventKind::kLeaseRevoked, EventKind::kVersionGone,
                   EventKind::kWorkerFenced, EventKind::kWorkerFenced,
                   EventKind::kWorkerRegistered, EventKind::kWorkerAttached,
                   EventKind::kCommitRefused, EventKind::kReceiverFenced}));
  EXPECT_EQ(events[5].version, Version(0, 5));
  EXPECT_EQ(events[5].reason,
            "epoch 5 of run \"run\" has taken over from epoch 0 of run \"run\" "
            "after run:0:1");
  EXPECT_EQ(events[6].lease_id, lease);
  EXPECT_EQ(events[13].reason, "torn");
  EXPECT_EQ(FindWorker(mesh[1].id()).death_reason, events[9].reason);
  EXPECT_NE(events[9].reason.find("has taken over"), std::string::npos);
  // The first step of the new epoch is lower: its event says both.
  ASSERT_TRUE(store().PublishShard(next.id(), 0, Soon()).ok());
  const Event ready = ReadAll(store()).back();
  EXPECT_EQ(ready.kind, EventKind::kVersionReady);
  EXPECT_EQ(ready.version, Version(0, 5));
  EXPECT_NE(ready.reason.find("step 0 follows the higher step 1 of run:0:1"),
            std::string::npos)
      << ready.reason;
}

TEST_P(StoreConformanceTest, AReaderOfEventsWaits) {
  const auto before =
      store().ReadEvents({.from = 0, .log_id = 0, .model = ""}, Soon());
  ASSERT_EQ(before.status(), absl::OkStatus());
  absl::StatusOr<EventPage> page;
  std::thread reader([&] {
    page = other().ReadEvents({.from = before->next,
                               .log_id = before->log_id,
                               .model = kModel,
                               .max_events = 10,
                               .wait_until = Soon()},
                              Soon());
  });
  const Member receiver = Join(ReceiverInfo());
  reader.join();
  ASSERT_EQ(page.status(), absl::OkStatus());
  ASSERT_FALSE(page->events.empty());
  EXPECT_EQ(page->events[0].worker_id, receiver.id());
  // One that asks for what is not there yet is told at once where it stands.
  const auto later =
      store().ReadEvents({.from = 1'000'000, .wait_until = Soon()}, Soon());
  ASSERT_EQ(later.status(), absl::OkStatus());
  EXPECT_TRUE(later->restarted);
  EXPECT_FALSE(later->events.empty());
  EXPECT_EQ(later->end, later->next);
  const auto stranger =
      store().ReadEvents({.from = page->next, .log_id = 12345}, Soon());
  ASSERT_EQ(stranger.status(), absl::OkStatus());
  EXPECT_TRUE(stranger->restarted);
  EXPECT_EQ(stranger->log_id, later->log_id);
}

TEST_P(StoreConformanceTest, LeasesAreListedWithWhoHoldsThem) {
  const Member publisher = Join(PublisherInfo(0, 1));
  const Member one = Join(ReceiverInfo(0));
  const Member two = Join(ReceiverInfo(1));
  ASSERT_TRUE(store().PublishShard(publisher.id(), 1, Soon()).ok());
  const std::string first = AcquireLease(one, Version(1));
  const std::string second = AcquireLease(two, Version(1));
  AdvanceClock(std::chrono::seconds(100));
  const auto leases = other().ListLeases(kModel, Soon());
  ASSERT_EQ(leases.status(), absl::OkStatus());
  std::set<std::pair<std::string, std::string>> held;
  for (const LeaseRecord& lease : *leases) {
    EXPECT_EQ(lease.version, Version(1));
    EXPECT_EQ(lease.model, kModel);
    EXPECT_EQ(lease.expires_in, kLeaseDuration - std::chrono::seconds(100));
    held.emplace(lease.worker_id, lease.lease_id);
  }
  EXPECT_EQ(held, (std::set<std::pair<std::string, std::string>>{
                      {one.id(), first}, {two.id(), second}}));
  ASSERT_TRUE(store().ReleaseLease(first, false, "", Soon()).ok());
  EXPECT_EQ(store().ListLeases("", Soon())->size(), 1u);
  EXPECT_EQ(store().ListLeases("other", Soon())->size(), 0u);
}

}  // namespace
}  // namespace weft::catalog::testing
