// Random refits against an oracle that looks at every byte of the target,
// guards included: pull and push, mapped, posted and mixed, every posted way,
// hostile windows and staging sizes, several threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_split.h"
#include "weft/execute/testing/fake_fleet.h"
#include "weft/execute/testing/refit_case.h"

namespace weft::execute::testing {
namespace {

struct Setting {
  Access access = Access::kPosted;
  ExecuteOptions options;
  bool registered = true;  // the target's memory, at its transport
  bool digests = true;
  transport::Capabilities costs;  // the transport's cost model
};

std::string ToString(const Setting& setting) {
  return absl::StrCat("access ", static_cast<int>(setting.access), " way ",
                      static_cast<int>(setting.options.posted_way), " window ",
                      setting.options.window, " staging ",
                      setting.options.staging_bytes, " threads ",
                      setting.options.num_threads, " digests ",
                      setting.digests ? 1 : 0);
}

template <typename T, size_t kCount>
T PickOf(std::mt19937_64& random, const T (&values)[kCount]) {
  return values[random() % kCount];
}

Setting RandomSetting(std::mt19937_64& random) {
  Setting setting;
  setting.access = PickOf(random, {Access::kMapped, Access::kPosted,
                                   Access::kPosted, Access::kMixed});
  setting.options.posted_way =
      PickOf(random, {PostedWay::kAuto, PostedWay::kShortGets,
                      PostedWay::kOverRead, PostedWay::kGather});
  setting.options.window = PickOf(random, {1, 2, 32});
  setting.options.staging_bytes = PickOf<int64_t>(
      random, {int64_t{4} << 10, int64_t{64} << 10, int64_t{1} << 20});
  setting.options.num_threads = PickOf(random, {1, 3});
  setting.registered = random() % 2 == 0;
  setting.digests = random() % 2 == 0;
  // From "operations are free" to "operations are dear".
  setting.costs.posted_seconds_per_op = PickOf(random, {0.0, 1e-9, 1e-6, 1e-3});
  setting.costs.posted_bytes_per_second = PickOf(random, {0.0, 1e9, 1e11});
  setting.costs.gather_seconds_per_op = PickOf(random, {0.0, 1e-9, 1e-3});
  return setting;
}

std::string CheckDigests(const RefitCase& refit, const Program& program,
                         const convert::DigestConstants& constants,
                         int64_t only_rank) {
  for (size_t p = 0; p < refit.plan.peers.size(); ++p) {
    const plan::PeerPlan& peer = refit.plan.peers[p];
    for (size_t m = 0; m < peer.moves.size(); ++m) {
      const auto table = program.ConvertedDigests(p, m);
      const bool expected = !peer.moves[m].conversion.identity() &&
                            (only_rank < 0 || only_rank == peer.src_rank);
      if (!expected) {
        if (!table.empty()) return "a digest table of an identity move";
        continue;
      }
      const auto oracle = refit.DigestOf(peer.moves[m], constants);
      if (std::vector<convert::DigestValue>(table.begin(), table.end()) !=
          oracle) {
        return absl::StrCat("digests of peer ", p, " move ", m, " box ",
                            peer.moves[m].box.ToString(), " are wrong");
      }
    }
  }
  return "";
}

std::string CheckReport(const RefitCase& refit, const ExecuteReport& report,
                        const Setting& setting, int64_t only_rank) {
  int64_t moved = 0;
  for (const plan::PeerPlan& peer : refit.plan.peers) {
    if (only_rank < 0 || peer.src_rank == only_rank) moved += peer.dst_bytes;
  }
  if (report.bytes_moved != moved) {
    return absl::StrCat("reports ", report.bytes_moved, " of ", moved,
                        " bytes moved");
  }
  if (report.peak_staging_bytes > setting.options.staging_bytes) {
    return absl::StrCat("staging peak ", report.peak_staging_bytes, " above ",
                        setting.options.staging_bytes);
  }
  return "";
}

// Looks at each move at the moment that it is said to have landed.
class LandingWatch {
 public:
  explicit LandingWatch(const RefitCase& refit) : refit_(refit) {}

  void Landed(size_t peer, size_t move) {
    const plan::Move& landed = refit_.plan.peers[peer].moves[move];
    std::string fault =
        landed.conversion.identity() ? refit_.CheckMove(landed) : "it converts";
    const std::lock_guard lock(mutex_);
    if (!moves_.emplace(peer, move).second) fault = "it landed before";
    if (!fault.empty() && fault_.empty()) {
      fault_ = absl::StrCat("peer ", peer, " move ", move, " landed: ", fault);
    }
  }
  void NextRun() { moves_.clear(); }
  const std::string& fault() const { return fault_; }
  int64_t num_landed() const { return static_cast<int64_t>(moves_.size()); }

 private:
  const RefitCase& refit_;
  std::mutex mutex_;
  std::set<std::pair<size_t, size_t>> moves_;
  std::string fault_;
};

// What the cases have exercised.
struct Seen {
  int64_t landed = 0;
  std::set<std::string> ways;
  int64_t witnesses = 0;
  int64_t digests = 0;
};

std::string RunPull(uint64_t seed, Seen& seen) {
  std::mt19937_64 random(seed);
  Setting setting = RandomSetting(random);
  RefitCase refit(random());
  if (!refit.error.empty()) return refit.error;
  FakeFleet fleet(refit, setting.access, random());
  fleet.transport.known.posted_seconds_per_op =
      setting.costs.posted_seconds_per_op;
  fleet.transport.known.posted_bytes_per_second =
      setting.costs.posted_bytes_per_second;
  fleet.transport.known.gather_seconds_per_op =
      setting.costs.gather_seconds_per_op;
  LandingWatch watch(refit);
  setting.options.landed = [&watch](size_t peer, size_t move) {
    watch.Landed(peer, move);
  };
  const auto local = fleet.TargetLocal(setting.registered);
  const convert::Kernels& kernels =
      random() % 2 == 0 ? convert::ReferenceKernels() : convert::CpuKernels();
  auto program = BindPull(refit.plan, *refit.index, refit.target, kernels,
                          local, fleet.Remotes(), setting.options);
  if (!program.ok()) return program.status().ToString();
  const auto constants = convert::DigestConstants::FromSeed(seed);
  if (setting.digests) (*program)->SetDigestConstants(&constants);
  for (int version = 0; version < 2; ++version) {
    refit.NewVersion();
    watch.NextRun();
    ApplyZeroFills(refit.plan, refit.target, local);
    const auto report = (*program)->Run(base::Deadline::Infinite());
    std::string fault = report.ok() ? fleet.Complaint(setting.options.window)
                                    : report.status().ToString();
    if (fault.empty()) fault = watch.fault();
    seen.landed += watch.num_landed();
    if (fault.empty()) fault = refit.CheckTarget();
    if (fault.empty()) fault = refit.CheckScratch((*program)->scratch());
    if (fault.empty()) fault = CheckReport(refit, *report, setting, -1);
    if (fault.empty() && setting.digests) {
      fault = CheckDigests(refit, **program, constants, -1);
    }
    if (!fault.empty()) {
      return absl::StrCat(ToString(setting), " version ", version, ": ", fault);
    }
    for (const ExecuteReport::Peer& peer : report->peers) {
      for (const std::string& word :
           std::vector<std::string>(absl::StrSplit(peer.way, '+'))) {
        seen.ways.insert(word);
      }
    }
  }
  for (const plan::PeerPlan& peer : refit.plan.peers) {
    seen.witnesses += static_cast<int64_t>(peer.witnesses.size());
    seen.digests += setting.digests ? 1 : 0;
  }
  return "";
}

std::string RunPush(uint64_t seed) {
  std::mt19937_64 random(seed);
  const Setting setting = RandomSetting(random);
  RefitCase refit(random());
  if (!refit.error.empty()) return refit.error;
  FakeFleet fleet(refit, setting.access, random());
  const auto constants = convert::DigestConstants::FromSeed(seed);
  std::vector<std::unique_ptr<Program>> programs;
  for (size_t r = 0; r < refit.sources.size(); ++r) {
    auto program =
        BindPush(refit.plan, *refit.index, refit.target, convert::CpuKernels(),
                 static_cast<int64_t>(r), fleet.SourceLocal(r),
                 fleet.TargetFor(r), setting.options);
    if (!program.ok()) return program.status().ToString();
    if (setting.digests) (*program)->SetDigestConstants(&constants);
    programs.push_back(*std::move(program));
  }
  for (int version = 0; version < 2; ++version) {
    refit.NewVersion();
    ApplyZeroFills(refit.plan, refit.target, fleet.TargetLocal(false));
    for (size_t r = 0; r < programs.size(); ++r) {
      const auto report = programs[r]->Run(base::Deadline::Infinite());
      std::string fault = report.ok() ? fleet.Complaint(setting.options.window)
                                      : report.status().ToString();
      const auto rank = static_cast<int64_t>(r);
      if (fault.empty()) fault = CheckReport(refit, *report, setting, rank);
      if (fault.empty() && setting.digests) {
        fault = CheckDigests(refit, *programs[r], constants, rank);
      }
      if (fault.empty() && report->posted_ops > 0 &&
          fleet.peers[r]->num_flushes != version + 1) {
        fault = "puts without a flush";
      }
      if (!fault.empty()) return absl::StrCat(ToString(setting), ": ", fault);
    }
    const std::string fault = refit.CheckTarget();
    if (!fault.empty()) return absl::StrCat(ToString(setting), ": ", fault);
  }
  return "";
}

TEST(RefitTest, PullEqualsTheOracle) {
  ASSERT_TRUE(rc::check("pull", [](uint64_t seed) {
    Seen seen;
    const std::string fault = RunPull(seed, seen);
    if (!fault.empty()) RC_FAIL(absl::StrCat("seed ", seed, ": ", fault));
  }));
}

// Guards the test above: a generator that never reaches a way proves nothing.
TEST(RefitTest, CasesReachEveryWay) {
  Seen seen;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    ASSERT_EQ(RunPull(seed, seen), "") << "seed " << seed;
  }
  EXPECT_THAT(seen.ways,
              ::testing::IsSupersetOf(
                  {"mapped", "short gets", "staged", "over-read", "gather"}));
  EXPECT_GT(seen.witnesses, 0);
  EXPECT_GT(seen.digests, 0);
  EXPECT_GT(seen.landed, 0);
}

// Here one run of a move shares a Get with another move, and another run of it
// has a Get of its own that comes back first.
TEST(RefitTest, AMoveLandsWithItsLastRun) {
  Seen seen;
  EXPECT_EQ(RunPull(538744860, seen), "");
}

TEST(RefitTest, PushEqualsTheOracle) {
  ASSERT_TRUE(rc::check("push", [](uint64_t seed) {
    const std::string fault = RunPush(seed);
    if (!fault.empty()) RC_FAIL(absl::StrCat("seed ", seed, ": ", fault));
  }));
}

}  // namespace
}  // namespace weft::execute::testing
