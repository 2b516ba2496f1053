// Runs that must fail: promptly, by name, and leaving nothing behind that
// writes into memory that the caller has back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "weft/execute/testing/fake_fleet.h"
#include "weft/execute/testing/refit_case.h"

namespace weft::execute::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// The first seed from `seed` on whose plan moves something from every source.
std::unique_ptr<RefitCase> CaseWithPeers(uint64_t seed, size_t num_peers) {
  for (;; ++seed) {
    auto refit = std::make_unique<RefitCase>(seed);
    if (refit->error.empty() && refit->plan.peers.size() >= num_peers &&
        refit->plan.totals.dst_bytes > 4096) {
      refit->NewVersion();
      return refit;
    }
  }
}

absl::StatusOr<std::unique_ptr<Program>> Pull(RefitCase& refit,
                                              FakeFleet& fleet,
                                              const ExecuteOptions& options) {
  return BindPull(refit.plan, *refit.index, refit.target, convert::CpuKernels(),
                  fleet.TargetLocal(true), fleet.Remotes(), options);
}

TEST(FaultTest, PassedDeadlineNamesPeerTensorAndProgress) {
  for (const Access access : {Access::kMapped, Access::kPosted}) {
    auto refit = CaseWithPeers(1, 1);
    FakeFleet fleet(*refit, access, 7);
    auto program = Pull(*refit, fleet, {}).value();
    const auto report =
        program->Run(base::Deadline::At(base::Deadline::Clock::now()));
    ASSERT_EQ(report.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(
        std::string(report.status().message()),
        MatchesRegex("deadline passed in (mapped copy|get|gather) from "
                     "publisher rank [0-9]+, tensor \".+\", 0 of [0-9]+ bytes "
                     "done"));
    EXPECT_EQ(fleet.peers[refit->plan.peers[0].src_rank]->num_ops, 0);
    // The program is not spoilt.
    ApplyZeroFills(refit->plan, refit->target, fleet.TargetLocal(true));
    ASSERT_TRUE(program->Run(base::Deadline::Infinite()).ok());
    EXPECT_EQ(refit->CheckTarget(), "");
  }
}

TEST(FaultTest, DyingPeerEndsTheRunByName) {
  for (const PostedWay way : {PostedWay::kAuto, PostedWay::kShortGets,
                              PostedWay::kOverRead, PostedWay::kGather}) {
    for (const bool refuse : {false, true}) {
      for (const int num_threads : {1, 3}) {
        auto refit = CaseWithPeers(11, 2);
        FakeFleet fleet(*refit, Access::kPosted, 3);
        ExecuteOptions options;
        options.posted_way = way;
        options.num_threads = num_threads;
        options.window = 4;
        options.staging_bytes = 4096;
        const int64_t rank = refit->plan.peers[1].src_rank;
        fleet.peers[rank]->faults.die_at_op = 1;
        fleet.peers[rank]->faults.refuse_to_post = refuse;
        auto program = Pull(*refit, fleet, options).value();
        const auto report = program->Run(base::Deadline::Infinite());
        ASSERT_EQ(report.status().code(), absl::StatusCode::kUnavailable);
        EXPECT_THAT(std::string(report.status().message()),
                    MatchesRegex(absl::StrCat(
                        "(get|gather) from publisher rank ", rank,
                        ", tensor \".+\", [0-9]+ of [0-9]+ bytes done: "
                        "publisher rank ",
                        rank, " died")));
        // Nothing is left that could still write.
        for (const auto& peer : fleet.peers) {
          EXPECT_EQ(peer->in_flight(), 0);
        }
        // The peer comes back: the same program delivers.
        fleet.peers[rank]->faults = {};
        refit->NewVersion();
        ApplyZeroFills(refit->plan, refit->target, fleet.TargetLocal(true));
        ASSERT_TRUE(program->Run(base::Deadline::Infinite()).ok());
        EXPECT_EQ(refit->CheckTarget(), "");
      }
    }
  }
}

TEST(FaultTest, SilentPeerEndsAtTheDeadlineAndIsReported) {
  auto refit = CaseWithPeers(21, 1);
  FakeFleet fleet(*refit, Access::kPosted, 5);
  const int64_t rank = refit->plan.peers[0].src_rank;
  fleet.peers[rank]->faults.silent_at_op = 0;
  auto program = Pull(*refit, fleet, {}).value();
  const auto report =
      // Enough to post what is never answered.
      program->Run(base::Deadline::After(std::chrono::milliseconds(500)));
  ASSERT_EQ(report.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("operations may still write: destroy the peer"));
  // Those operations are still out: a second run must not begin.
  const auto again = program->Run(base::Deadline::Infinite());
  ASSERT_EQ(again.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(again.status().message()),
              HasSubstr("of an earlier run are still in flight"));
}

TEST(FaultTest, DeadPeerOfMappedMemoryFailsTheRun) {
  auto refit = CaseWithPeers(31, 2);
  FakeFleet fleet(*refit, Access::kMapped, 5);
  const int64_t rank = refit->plan.peers[1].src_rank;
  fleet.peers[rank]->faults.dead = true;
  auto program = Pull(*refit, fleet, {.num_threads = 2, .device = {}}).value();
  const auto report = program->Run(base::Deadline::Infinite());
  ASSERT_EQ(report.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr(absl::StrCat("mapped copy from publisher rank ", rank,
                                     ", tensor \"")));
}

TEST(FaultTest, PushNamesTheReceiver) {
  auto refit = CaseWithPeers(41, 1);
  FakeFleet fleet(*refit, Access::kPosted, 5);
  const int64_t rank = refit->plan.peers[0].src_rank;
  fleet.peers[rank]->faults.die_at_op = 0;
  auto program =
      BindPush(refit->plan, *refit->index, refit->target, convert::CpuKernels(),
               rank, fleet.SourceLocal(rank), fleet.TargetFor(rank), {})
          .value();
  const auto report = program->Run(base::Deadline::Infinite());
  ASSERT_EQ(report.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status().message()),
              MatchesRegex("put to receiver rank 0, tensor \".+\", [0-9]+ of "
                           "[0-9]+ bytes done: publisher rank [0-9]+ died"));
}

TEST(FaultTest, FlushThatFailsFailsThePush) {
  auto refit = CaseWithPeers(41, 1);
  FakeFleet fleet(*refit, Access::kPosted, 5);
  const int64_t rank = refit->plan.peers[0].src_rank;
  auto program =
      BindPush(refit->plan, *refit->index, refit->target, convert::CpuKernels(),
               rank, fleet.SourceLocal(rank), fleet.TargetFor(rank), {})
          .value();
  // Dies when all puts have been taken: only the flush can tell.
  fleet.peers[rank]->faults.dead_at_flush = true;
  const auto report = program->Run(base::Deadline::Infinite());
  ASSERT_EQ(report.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("flush to receiver rank 0"));
}

TEST(FaultTest, GatherIsRefusedWhereThereIsNone) {
  auto refit = CaseWithPeers(51, 1);
  FakeFleet fleet(*refit, Access::kPosted, 5);
  fleet.transport.known.gather = false;
  const auto program =
      Pull(*refit, fleet, {.posted_way = PostedWay::kGather, .device = {}});
  EXPECT_EQ(program.status().code(), absl::StatusCode::kUnimplemented);
}

TEST(FaultTest, ProgressIsToldAndEndsAtTheTotal) {
  auto refit = CaseWithPeers(61, 1);
  FakeFleet fleet(*refit, Access::kPosted, 5);
  int64_t last_done = 0;
  int64_t total = 0;
  ExecuteOptions options;
  options.progress = [&](int64_t bytes_done, int64_t bytes_total) {
    EXPECT_GE(bytes_done, last_done);
    last_done = bytes_done;
    total = bytes_total;
  };
  auto program = Pull(*refit, fleet, options).value();
  ASSERT_TRUE(program->Run(base::Deadline::Infinite()).ok());
  EXPECT_EQ(last_done, total);
  EXPECT_GE(total, refit->plan.totals.dst_bytes);
}

}  // namespace
}  // namespace weft::execute::testing
