// Plans are made once for sources of the same layouts, whoever they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "weft/session/plan_cache_internal.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using ::testing::Contains;
using ::testing::Not;
using ::testing::StartsWith;

using testing::BytesOf;
using testing::ColumnCut;
using testing::Expected;
using testing::Soon;

class PlanCacheTest : public testing::PlainSession {
 protected:
  struct Counted {
    Engine engine;
    int plans = 0;  // phases of this name, of all its refits
  };

  std::unique_ptr<Counted> Start(int64_t begin, int64_t end, bool serve,
                                 bool faulty = false) {
    auto counted = std::make_unique<Counted>();
    counted->engine =
        StartEngine(ColumnCut(kRows, kCols, begin, end), faulty,
                    [&](ReceiverOptions& options) {
                      options.serve = serve;
                      options.on_phase =
                          [counted = counted.get()](const RefitPhase& phase) {
                            counted->plans += phase.name == "plan" ? 1 : 0;
                          };
                    });
    return counted;
  }

  // The plans that a refit to the newest version has made.
  int PlansOfRefit(Counted& counted) {
    Poison(counted.engine);
    const int before = counted.plans;
    const auto report = counted.engine.receiver->Refit(nullptr, false, Soon());
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok()) return -1;
    EXPECT_EQ(BytesOf(counted.engine.owned),
              Expected(counted.engine.placement, report->version.step));
    EXPECT_EQ(report->planned, counted.plans > before);
    sources_.clear();
    for (const PeerReport& peer : report->peers) sources_.push_back(peer.name);
    return counted.plans - before;
  }

  std::vector<std::string> sources_;  // of the last refit
};

// Engines come in another order at each version, so that there are none, one or
// two copies to read from.
TEST_P(PlanCacheTest, AWarmRefitFromCopiesPlansNothing) {
  StartTrainers(2);
  const auto reader = Start(10, 140, /*serve=*/false);
  const auto one = Start(0, kCols, /*serve=*/true);
  const auto two = Start(0, kCols, /*serve=*/true);
  const std::array<std::vector<Counted*>, 3> orders = {
      std::vector<Counted*>{one.get(), two.get(), reader.get()},
      {reader.get(), two.get(), one.get()},
      {one.get(), reader.get(), two.get()}};
  for (uint64_t step = 1; step <= 9; ++step) {
    SCOPED_TRACE(step);
    PublishAll(step);
    for (Counted* engine : orders[step % 3]) {
      const int plans = PlansOfRefit(*engine);
      if (engine != reader.get()) continue;
      EXPECT_EQ(plans, step <= 3 ? 1 : 0);
      if (step % 3 == 1) {
        EXPECT_THAT(sources_, Not(Contains(StartsWith("copy"))));
      } else {
        EXPECT_THAT(sources_, Contains(StartsWith("copy")));
      }
    }
  }
  EXPECT_EQ(reader->engine.receiver->counters().plans_built, 3);
  // Without a copy, and with the other one.
  EXPECT_EQ(one->engine.receiver->counters().plans_built, 2);
  EXPECT_EQ(two->engine.receiver->counters().plans_built, 2);
}

TEST_P(PlanCacheTest, OtherSourcesArePlannedAnew) {
  StartTrainers(2);
  const auto reader = Start(10, 140, /*serve=*/false);
  auto copy = Start(0, kCols, /*serve=*/true);
  PublishAll(1);
  PlansOfRefit(*copy);
  EXPECT_EQ(PlansOfRefit(*reader), 1);
  // One joins that holds something else.
  const auto part = Start(0, 40, /*serve=*/true);
  PublishAll(2);
  PlansOfRefit(*copy);
  PlansOfRefit(*part);
  EXPECT_EQ(PlansOfRefit(*reader), 1);
  // The other one leaves.
  copy.reset();
  EXPECT_EQ(PlansOfRefit(*reader), 1);
  // One comes in its place that holds the same.
  copy = Start(0, kCols, /*serve=*/true);
  PublishAll(3);
  PlansOfRefit(*copy);
  EXPECT_EQ(PlansOfRefit(*reader), 0);
  EXPECT_THAT(sources_, Contains(StartsWith("copy")));
  // The trainer is started again on other ranks.
  StartTrainers(3, /*epoch=*/1);
  PublishAll(1);
  EXPECT_EQ(PlansOfRefit(*reader), 1);
  PlansOfRefit(*copy);
  EXPECT_EQ(PlansOfRefit(*reader), 1);
}

TEST_P(PlanCacheTest, ARefitThatFailedCostsNoPlan) {
  StartTrainers(2);
  PublishAll(1);
  const auto engine = Start(0, kCols, /*serve=*/false, /*faulty=*/true);
  engine->engine.faults->Add({.kind = transport::Fault::Kind::kPeerDeath,
                              .peer_label = "publisher rank 1",
                              .bytes = 1000});
  const auto torn = engine->engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(absl::IsUnavailable(torn.status())) << torn.status();
  EXPECT_EQ(engine->engine.receiver->counters().plans_built, 1);
  EXPECT_EQ(PlansOfRefit(*engine), 0);
}

INSTANTIATE_TEST_SUITE_P(Transports, PlanCacheTest,
                         ::testing::Values("inproc", "shm"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

// A publisher's rank `rank` whose placement has the bytes `layout`.
ChosenSource Source(int64_t rank, const std::string& layout,
                    int32_t distance = 0) {
  ChosenSource source;
  source.record.rank = rank;
  source.placement = std::make_shared<FetchedPlacement>(
      FetchedPlacement{manifest::DigestOf(layout), {}});
  source.distance = distance;
  return source;
}

TEST(PlanCacheKeysTest, APlanIsForRanksLayoutsAndDistances) {
  PlanCache cache;
  int made = 0;
  const auto find = [&](const std::vector<ChosenSource>& sources) {
    const auto found = cache.FindOrMake(sources, [&]() -> PlanCache::Made {
      ++made;
      return std::make_shared<const StagedPlan>();
    });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *found : nullptr;
  };
  const auto plan = find({Source(0, "a"), Source(1, "b")});
  EXPECT_EQ(made, 1);
  // Another process, of another name.
  ChosenSource restarted = Source(1, "b");
  restarted.record.generation = 77;
  restarted.name = "publisher rank 1, started again";
  EXPECT_EQ(find({Source(0, "a"), restarted}), plan);
  EXPECT_EQ(made, 1);
  const std::vector<std::vector<ChosenSource>> others = {
      {Source(0, "a")},
      {Source(0, "a"), Source(1, "c")},
      {Source(0, "a"), Source(2, "b")},
      {Source(0, "a"), Source(1, "b", 1)},
      {Source(0, "a"), Source(1, "b"), Source(2, "c")}};
  for (const auto& other : others) EXPECT_NE(find(other), plan);
  EXPECT_EQ(made, 6);
  // What cannot be planned is not kept.
  const std::vector<ChosenSource> bad = {Source(0, "bad")};
  const auto refuse = [] { return PlanCache::Made(absl::AbortedError("no")); };
  EXPECT_FALSE(cache.FindOrMake(bad, refuse).ok());
  EXPECT_NE(find(bad), nullptr);
  EXPECT_EQ(made, 7);
}

TEST(PlanCacheKeysTest, FewAreKept) {
  PlanCache cache;
  int made = 0;
  std::vector<std::weak_ptr<const StagedPlan>> plans;
  const auto is_kept = [&](int64_t rank) {
    const int before = made;
    const std::vector<ChosenSource> sources = {Source(rank, "a")};
    plans.emplace_back(*cache.FindOrMake(sources, [&]() -> PlanCache::Made {
      ++made;
      return std::make_shared<const StagedPlan>();
    }));
    return made == before;
  };
  const auto kept = static_cast<int64_t>(PlanCache::kPlansKept);
  for (int64_t rank = 0; rank < kept; ++rank) EXPECT_FALSE(is_kept(rank));
  EXPECT_TRUE(is_kept(0));
  EXPECT_FALSE(is_kept(kept));
  EXPECT_TRUE(is_kept(0));
  EXPECT_FALSE(is_kept(1)) << "the one not asked for longest went";
  std::set<const StagedPlan*> alive;
  for (const auto& each : plans) alive.insert(each.lock().get());
  alive.erase(nullptr);
  EXPECT_EQ(alive.size(), PlanCache::kPlansKept);
}

}  // namespace
}  // namespace weft::session
