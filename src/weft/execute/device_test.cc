// Random refits carried by a fake GPU: pull and push, ends on the GPU and on
// the host, against an oracle that looks at every byte of the target, guards
// included.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <iostream>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "weft/convert/testing/host_program.h"
#include "weft/execute/planes.h"
#include "weft/execute/testing/fake_fleet.h"
#include "weft/execute/testing/refit_case.h"
#include "weft/memory/testing/fake_device.h"

namespace weft::execute::testing {
namespace {

constexpr int kGpu = 1;

// A region that says that it is mapped for the GPU.
class OnGpu final : public transport::RemoteRegion {
 public:
  OnGpu(const transport::RemoteRegion& region, int device)
      : region_(region), device_(device) {}
  int64_t size_bytes() const override { return region_.size_bytes(); }
  std::byte* mapped() const override { return region_.mapped(); }
  int device() const override { return device_; }

 private:
  const transport::RemoteRegion& region_;
  const int device_;
};

class Gpus {
 public:
  memory::FakeDeviceDriver driver{2};

  ExecuteOptions Options() {
    ExecuteOptions options;
    options.device = {.driver = &driver,
                      .build = convert::testing::BuildHostProgram};
    // Small plans go another way: every second one as large ones do.
    static int asked = 0;
    if (asked++ % 2 == 1) options.device.small_plan_bytes = 0;
    return options;
  }
  RemoteRank Far(RemoteRank remote, int device) {
    for (RemoteStored& stored : remote.stored) {
      if (stored.region->mapped() == nullptr) continue;
      regions_.push_back(std::make_unique<OnGpu>(*stored.region, device));
      stored.region = regions_.back().get();
    }
    return remote;
  }
  static std::vector<LocalStored> Near(std::vector<LocalStored> local,
                                       int device) {
    for (LocalStored& stored : local) stored.device = device;
    return local;
  }

 private:
  std::vector<std::unique_ptr<OnGpu>> regions_;
};

// Which end lies on the GPU; one of them does.
struct Ends {
  int near = memory::kHostMemory;
  int far = memory::kHostMemory;
};
Ends RandomEnds(std::mt19937_64& random) {
  switch (random() % 3) {
    case 0:
      return {kGpu, kGpu};
    case 1:
      return {kGpu, memory::kHostMemory};
    default:
      return {memory::kHostMemory, kGpu};
  }
}

// The tables that the program gives, against the definition.
std::string CheckDigests(const RefitCase& refit, const Program& program,
                         const convert::DigestConstants& constants) {
  for (size_t p = 0; p < refit.plan.peers.size(); ++p) {
    const plan::PeerPlan& peer = refit.plan.peers[p];
    for (size_t m = 0; m < peer.moves.size(); ++m) {
      const auto table = peer.moves[m].conversion.identity()
                             ? program.LandedDigests(p, m)
                             : program.ConvertedDigests(p, m);
      const auto oracle = refit.DigestOf(peer.moves[m], constants);
      if (std::vector<convert::DigestValue>(table.begin(), table.end()) !=
          oracle) {
        return absl::StrCat("digests of peer ", p, " move ", m, " box ",
                            peer.moves[m].box.ToString(), " are wrong");
      }
    }
    for (size_t w = 0; w < peer.witnesses.size(); ++w) {
      plan::Move as_move = peer.moves[peer.witnesses[w].move];
      as_move.box = peer.witnesses[w].box;
      const auto table = program.WitnessDigests(p, w);
      if (std::vector<convert::DigestValue>(table.begin(), table.end()) !=
          refit.DigestOf(as_move, constants)) {
        return absl::StrCat("digests of witness ", w, " of peer ", p,
                            " are wrong");
      }
    }
  }
  return "";
}

std::multiset<std::pair<size_t, size_t>> EachMoveOnce(const plan::Plan& plan) {
  std::multiset<std::pair<size_t, size_t>> moves;
  for (size_t p = 0; p < plan.peers.size(); ++p) {
    for (size_t m = 0; m < plan.peers[p].moves.size(); ++m) {
      moves.insert({p, m});
    }
  }
  return moves;
}

// Any ring, window and way, of a transport with any costs.
void MakePosted(std::mt19937_64& random, FakeFleet& fleet,
                ExecuteOptions& options) {
  transport::Capabilities& known = fleet.transport.known;
  known.device_memory = true;
  known.posted_seconds_per_op = 1e-6 * static_cast<double>(1 + random() % 50);
  known.posted_bytes_per_second = 1e9 * static_cast<double>(1 + random() % 400);
  options.staging_bytes = int64_t{1} << (12 + random() % 9);
  options.window = static_cast<int>(1 + random() % 40);
  constexpr PostedWay kWays[] = {PostedWay::kAuto, PostedWay::kShortGets,
                                 PostedWay::kOverRead, PostedWay::kGather};
  options.posted_way = kWays[random() % 4];
}

std::string RunPull(uint64_t seed, Access access) {
  std::mt19937_64 random(seed);
  RefitCase refit(random());
  if (!refit.error.empty()) return refit.error;
  FakeFleet fleet(refit, access, random());
  Gpus gpus;
  Ends ends = RandomEnds(random);
  if (access != Access::kMapped) ends.near = kGpu;
  std::vector<RemoteRank> remotes;
  for (RemoteRank& remote : fleet.Remotes()) {
    remotes.push_back(gpus.Far(std::move(remote), ends.far));
  }
  const std::vector<LocalStored> local =
      Gpus::Near(fleet.TargetLocal(false), ends.near);
  std::mutex mutex;
  std::multiset<std::pair<size_t, size_t>> digested;
  ExecuteOptions options = gpus.Options();
  options.num_threads = 2;
  if (access != Access::kMapped) MakePosted(random, fleet, options);
  options.digested = [&](size_t peer, size_t move) {
    const std::lock_guard lock(mutex);
    digested.insert({peer, move});
  };
  const auto program =
      BindPull(refit.plan, *refit.index, refit.target,
               convert::ReferenceKernels(), local, remotes, options);
  if (!program.ok()) return program.status().ToString();
  for (int run = 0; run < 3; ++run) {
    refit.NewVersion();
    digested.clear();
    const auto constants = convert::DigestConstants::FromSeed(random());
    (*program)->SetDigestConstants(&constants);
    ApplyZeroFills(refit.plan, refit.target, local);
    const auto report =
        (*program)->Run(base::Deadline::After(std::chrono::seconds(20)));
    if (!report.ok()) return report.status().ToString();
    std::string fault = refit.CheckTarget();
    if (fault.empty()) fault = CheckDigests(refit, **program, constants);
    if (fault.empty()) fault = fleet.Complaint(options.window);
    if (!fault.empty()) return fault;
    if (digested != EachMoveOnce(refit.plan)) {
      return "not every move was said to be digested, once";
    }
  }
  return "";
}

std::string RunPush(uint64_t seed) {
  std::mt19937_64 random(seed);
  RefitCase refit(random());
  if (!refit.error.empty()) return refit.error;
  FakeFleet fleet(refit, Access::kMapped, random());
  Gpus gpus;
  const Ends ends = RandomEnds(random);
  refit.NewVersion();
  ApplyZeroFills(refit.plan, refit.target, fleet.TargetLocal(false));
  for (size_t r = 0; r < refit.sources.size(); ++r) {
    const auto program = BindPush(
        refit.plan, *refit.index, refit.target, convert::ReferenceKernels(),
        static_cast<int64_t>(r), Gpus::Near(fleet.SourceLocal(r), ends.near),
        gpus.Far(fleet.TargetFor(r), ends.far), gpus.Options());
    if (!program.ok()) return program.status().ToString();
    const auto report =
        (*program)->Run(base::Deadline::After(std::chrono::seconds(20)));
    if (!report.ok()) return report.status().ToString();
  }
  return refit.CheckTarget();
}

void RunMany(std::string (*run)(uint64_t)) {
  const uint64_t first = std::random_device()();
  for (uint64_t i = 0; i < 150; ++i) {
    const std::string fault = run(first + i);
    ASSERT_EQ(fault, "") << "seed " << first + i;
  }
}

TEST(Device, RandomPullsArriveWithTheirDigests) {
  RunMany([](uint64_t seed) { return RunPull(seed, Access::kMapped); });
}
TEST(Device, RandomPostedPullsArriveWithTheirDigests) {
  RunMany([](uint64_t seed) { return RunPull(seed, Access::kPosted); });
}
TEST(Device, RandomMixedPullsArriveWithTheirDigests) {
  RunMany([](uint64_t seed) { return RunPull(seed, Access::kMixed); });
}
TEST(Device, RandomPushesArrive) { RunMany(RunPush); }

struct SmallPull {
  explicit SmallPull(Gpus& gpus, Access access = Access::kMapped)
      : refit(SeedWithMoves()), fleet(refit, access, 1) {
    fleet.transport.known.device_memory = access != Access::kMapped;
    for (RemoteRank& remote : fleet.Remotes()) {
      remotes.push_back(gpus.Far(std::move(remote), kGpu));
    }
    local = Gpus::Near(fleet.TargetLocal(false), kGpu);
  }
  static uint64_t SeedWithMoves() {
    uint64_t seed = 1;
    while (!RefitCase(seed).error.empty() ||
           RefitCase(seed).plan.peers.size() < 2) {
      ++seed;
    }
    return seed;
  }
  absl::StatusOr<std::unique_ptr<Program>> Bind(const ExecuteOptions& options) {
    return BindPull(refit.plan, *refit.index, refit.target,
                    convert::ReferenceKernels(), local, remotes, options);
  }
  RefitCase refit;
  FakeFleet fleet;
  std::vector<RemoteRank> remotes;
  std::vector<LocalStored> local;
};

TEST(Device, ADeadlineHoldsWhileTheGpuWorks) {
  Gpus gpus;
  SmallPull pull(gpus);
  const auto program = pull.Bind(gpus.Options());
  ASSERT_TRUE(program.ok()) << program.status();
  ASSERT_TRUE((*program)->Run(base::Deadline::Infinite()).ok());
  // Idle when the run looks at the three queues, then busy until long after the
  // deadline.
  gpus.driver.HoldPolls(3, 1000);
  const auto late =
      (*program)->Run(base::Deadline::After(std::chrono::nanoseconds(1)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.status())) << late.status();
  EXPECT_THAT(std::string(late.status().message()),
              ::testing::HasSubstr("GPU 1"));
  EXPECT_TRUE((*program)->Run(base::Deadline::Infinite()).ok());
}

TEST(Device, ADeadPeerIsNamedWhileTheGpuWorks) {
  Gpus gpus;
  SmallPull pull(gpus);
  const auto program = pull.Bind(gpus.Options());
  ASSERT_TRUE(program.ok()) << program.status();
  pull.fleet.peers[1]->faults.dead = true;
  const auto lost = (*program)->Run(base::Deadline::Infinite());
  EXPECT_TRUE(absl::IsUnavailable(lost.status())) << lost.status();
  EXPECT_THAT(std::string(lost.status().message()),
              ::testing::HasSubstr("publisher rank 1"));
}

TEST(Device, FaultsAreNamedBeforeAnythingMoves) {
  Gpus gpus;
  SmallPull pull(gpus);
  ExecuteOptions without;
  EXPECT_THAT(std::string(pull.Bind(without).status().message()),
              ::testing::HasSubstr("no driver"));
  pull.local[0].device = 0;
  if (pull.local.size() > 1) {
    EXPECT_THAT(std::string(pull.Bind(gpus.Options()).status().message()),
                ::testing::HasSubstr("GPU 0 and on 1"));
  }
  pull.local = Gpus::Near(pull.local, 0);
  EXPECT_THAT(std::string(pull.Bind(gpus.Options()).status().message()),
              ::testing::HasSubstr("not mapped for GPU 0"));
}

TEST(Device, APostedPullNamesWhatFails) {
  Gpus gpus;
  SmallPull pull(gpus, Access::kPosted);
  const auto program = pull.Bind(gpus.Options());
  ASSERT_TRUE(program.ok()) << program.status();
  const auto report = (*program)->Run(base::Deadline::Infinite());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->mapped_bytes, 0);
  EXPECT_GE(report->posted_direct_bytes + report->posted_staged_bytes,
            report->bytes_moved);
  EXPECT_FALSE(report->peers[0].mapped);
  EXPECT_THAT(report->peers[0].way, ::testing::HasSubstr("to cuda:1"));
  FakePeer& peer = *pull.fleet.peers[1];
  peer.faults.die_at_op = peer.num_ops;
  const auto dead = (*program)->Run(base::Deadline::Infinite());
  EXPECT_TRUE(absl::IsUnavailable(dead.status())) << dead.status();
  EXPECT_THAT(std::string(dead.status().message()),
              ::testing::AllOf(::testing::HasSubstr("publisher rank 1"),
                               ::testing::HasSubstr("tensor \"")));
}

TEST(Device, APostedPullThatHangsMayStillWriteAndIsNotRunAgain) {
  Gpus gpus;
  SmallPull pull(gpus, Access::kPosted);
  const auto program = pull.Bind(gpus.Options());
  ASSERT_TRUE(program.ok()) << program.status();
  pull.fleet.peers[1]->faults.silent_at_op = 0;
  const auto late =
      (*program)->Run(base::Deadline::After(std::chrono::milliseconds(20)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.status())) << late.status();
  EXPECT_THAT(std::string(late.status().message()),
              ::testing::HasSubstr("may still write"));
  const auto again = (*program)->Run(base::Deadline::Infinite());
  EXPECT_TRUE(absl::IsUnavailable(again.status())) << again.status();
}

// The transport knows no streams: what the engine has queued reads old bytes.
TEST(Device, APostedPullBeginsAfterWhatTheStreamHolds) {
  constexpr uintptr_t kStream = 6;
  Gpus gpus;
  SmallPull pull(gpus, Access::kPosted);
  ExecuteOptions options = gpus.Options();
  options.device.stream = kStream;
  const auto program = pull.Bind(options);
  ASSERT_TRUE(program.ok()) << program.status();
  const std::span<std::byte> live(
      pull.local[0].base, static_cast<size_t>(pull.local[0].size_bytes));
  std::fill(live.begin(), live.end(), std::byte{3});
  std::vector<std::byte> read;
  gpus.driver.QueueInStream(kStream,
                            [&] { read.assign(live.begin(), live.end()); });
  const auto report = (*program)->Run(base::Deadline::Infinite());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(read, ::testing::Each(std::byte{3}));
  EXPECT_EQ(read.size(), live.size());
  EXPECT_THAT(live, ::testing::Contains(::testing::Ne(std::byte{3})));
  // Never longer than the deadline.
  gpus.driver.HoldPolls(4, 1000);
  const auto late =
      (*program)->Run(base::Deadline::After(std::chrono::nanoseconds(1)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.status())) << late.status();
  EXPECT_THAT(std::string(late.status().message()),
              ::testing::HasSubstr("stream"));
}

TEST(Device, ATransportThatKnowsNoGpusIsRefused) {
  Gpus gpus;
  SmallPull pull(gpus, Access::kPosted);
  pull.fleet.transport.known.device_memory = false;
  EXPECT_THAT(std::string(pull.Bind(gpus.Options()).status().message()),
              ::testing::HasSubstr("does not post into memory of a GPU"));
}

TEST(Device, HostEndsArePinnedWhileTheProgramLives) {
  Gpus gpus;
  SmallPull pull(gpus);
  pull.local = Gpus::Near(pull.local, memory::kHostMemory);
  {
    const auto program = pull.Bind(gpus.Options());
    ASSERT_TRUE(program.ok()) << program.status();
    EXPECT_EQ(gpus.driver.num_pinned(), 1);
  }
  EXPECT_EQ(gpus.driver.num_pinned(), 0);
}

}  // namespace
}  // namespace weft::execute::testing
