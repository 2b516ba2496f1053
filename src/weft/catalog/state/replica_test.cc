// Replicas of one log are one, whenever they begin; and no bytes break one.
#include "weft/catalog/state/replica.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/event.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

using Kind = Command::Kind;

const StateOptions kOptions{.lease_duration = std::chrono::seconds(60),
                            .attach_within = std::chrono::seconds(10),
                            .first_number = 1,
                            .dead_workers_kept = 8,
                            .unused_placements_kept = 3};

uint64_t Seed() {
  const char* given = std::getenv("WEFT_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10)
                          : std::random_device()();
}

std::string Digest(uint64_t number) {
  return absl::StrCat(absl::Hex(number, absl::kZeroPad16),
                      std::string(48, 'a'));
}

// Commands that are mostly refused and often enough not.
class Author {
 public:
  explicit Author(uint64_t seed) : random_(seed) {}

  Command Next() {
    Command command;
    command.kind = static_cast<Kind>(1 + Pick(17));
    std::string& server = servers_[Pick(2)];
    command.server = server;
    command.sequence = ++sequence_;
    now_ += Pick(3) == 0 ? static_cast<int64_t>(Pick(4'000'000'000)) : 0;
    command.now_ns = now_;
    command.id = absl::StrCat("w", Pick(80));
    command.number = Pick(6);
    command.token = Pick(4);
    command.flag = Pick(2) == 0;
    command.version = {"run", Pick(2), Pick(6)};
    switch (command.kind) {
      case Kind::kLeave:
        // Mostly of one that nobody knows. Its next life joins some day.
        command.id = Pick(10) == 0 ? server : "nobody";
        if (command.id == server) server = absl::StrCat("s", sequence_);
        break;
      case Kind::kPutPlacement:
        command.id = Digest(Pick(6));
        command.text = absl::StrCat("place", Pick(1000));
        command.number = Pick(100);
        break;
      case Kind::kRegister:
        command.info = Info();
        command.text = "binding";
        break;
      case Kind::kReattach:
        command.id = absl::StrCat("w", command.number = Pick(80));
        break;
      case Kind::kRelease:
        command.id = Pick(2) == 0 ? last_lease_
                                  : absl::StrCat("l", Pick(80), ".w", Pick(80));
        command.text = command.flag ? "" : "torn";
        break;
      case Kind::kRenew:
        command.id = Pick(4) == 0 ? absl::StrCat("l", Pick(80), ".w", Pick(80))
                                  : last_lease_;
        break;
      case Kind::kReport:
        command.id = absl::StrCat("w", Pick(80));
        command.text = command.flag ? "" : "torn";
        break;
      case Kind::kRevoke:
        command.text = "model";
        break;
      default:
        break;
    }
    return command;
  }

  // Lease ids name their worker: seldom guessed.
  void Saw(const std::string& lease_id) {
    if (!lease_id.empty()) last_lease_ = lease_id;
  }

 private:
  uint64_t Pick(uint64_t count) {
    return std::uniform_int_distribution<uint64_t>(0, count - 1)(random_);
  }
  WorkerInfo Info() {
    WorkerInfo info;
    info.model = Pick(8) == 0 ? "other" : "model";
    info.role = static_cast<Role>(1 + Pick(3));
    info.layout_spec = "tp=2";
    info.num_ranks = 2;
    info.rank = static_cast<int64_t>(Pick(2));
    info.run_id = "run";
    info.epoch = Pick(2);
    if (info.role == Role::kPublisher) info.labels = {{"a", "1"}, {"b", ""}};
    info.placement_digest_hex = Digest(Pick(6));
    if (Pick(3) == 0) info.model_card_digest_hex = Digest(Pick(6));
    if (Pick(2) == 0) info.shard_key = Digest(0);
    if (info.role == Role::kCopy && Pick(2) == 0) {
      info.held_shards = {Digest(0), Digest(1)};
    }
    return info;
  }

  std::mt19937_64 random_;
  std::string servers_[2] = {"a", "b"};
  std::string last_lease_ = "l1.w1";
  uint64_t sequence_ = 0;
  int64_t now_ = 1;
};

std::vector<std::string> NumbersOf(const std::vector<Event>& events) {
  std::vector<std::string> numbers;
  for (const Event& event : events) {
    numbers.push_back(absl::StrCat(event.number, " ", event.unix_ns, " ",
                                   std::string(ToString(event.kind))));
  }
  return numbers;
}

struct Told {
  uint64_t number = 0;
  std::map<std::pair<std::string, VersionId>, VersionState> states;
  std::map<std::pair<std::string, VersionId>, std::set<std::string>> leases;
  std::set<std::string> alive;

  void Hear(const Event& event) {
    ASSERT_EQ(event.number, ++number);
    const auto key = std::make_pair(event.model, event.version);
    switch (event.kind) {
      case EventKind::kVersionStaging:
        states[key] = VersionState::kStaging;
        break;
      case EventKind::kVersionReady:
        states[key] = VersionState::kReady;
        break;
      case EventKind::kVersionRetiring:
        states[key] = VersionState::kRetiring;
        break;
      case EventKind::kVersionGone:
        states[key] = VersionState::kGone;
        break;
      case EventKind::kLeaseAcquired:
        leases[key].insert(event.lease_id);
        break;
      case EventKind::kLeaseReleased:
      case EventKind::kLeaseRevoked:
        ASSERT_EQ(leases[key].erase(event.lease_id), 1u);
        break;
      case EventKind::kWorkerAttached:
        alive.insert(event.worker_id);
        break;
      case EventKind::kWorkerDied:
      case EventKind::kWorkerFenced:
        alive.erase(event.worker_id);
        break;
      default:
        break;
    }
  }
};

TEST(ReplicaTest, AReplicaFromASnapshotIsTheSame) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(absl::StrCat("repeat with WEFT_TEST_SEED=", seed));
  Author author(seed);
  Replica whole(kOptions);
  Replica late(kOptions);
  int done = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string entry = EncodeCommand(author.Next());
    const Replica::Outcome one = whole.Apply(entry);
    const Replica::Outcome two = late.Apply(entry);
    ASSERT_EQ(one.result.has_value(), two.result.has_value());
    if (one.result) {
      ASSERT_EQ(one.result->status, two.result->status);
      ASSERT_EQ(one.result->registration.worker_id,
                two.result->registration.worker_id);
      ASSERT_EQ(one.result->lease.lease_id, two.result->lease.lease_id);
      author.Saw(one.result->lease.lease_id);
      ASSERT_EQ(one.result->revoked, two.result->revoked);
      done += one.result->status.ok() ? 1 : 0;
    }
    ASSERT_EQ(one.placed, two.placed);
    ASSERT_EQ(NumbersOf(whole.state().TakeEvents()),
              NumbersOf(late.state().TakeEvents()));
    if (i % 97 != 0) continue;
    const std::string bytes = whole.Encode();
    ASSERT_EQ(bytes, late.Encode()) << "entry " << i;
    auto decoded = Replica::Decode(bytes, kOptions);
    ASSERT_EQ(decoded.status(), absl::OkStatus()) << "entry " << i;
    late = *std::move(decoded);
  }
  EXPECT_GT(done, 400) << "the log does nothing";
}

// Told only of events, a reader knows the states and leases of all versions.
TEST(ReplicaTest, EventsTellEverything) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(absl::StrCat("repeat with WEFT_TEST_SEED=", seed));
  Author author(seed);
  Replica replica(kOptions);
  Told told;
  for (int i = 0; i < 4000; ++i) {
    replica.Apply(EncodeCommand(author.Next()));
    for (const Event& event : replica.state().TakeEvents()) told.Hear(event);
    for (const VersionRecord& record : replica.state().ListVersions("")) {
      const auto key = std::make_pair(record.model, record.version);
      ASSERT_EQ(told.states[key], record.state) << "entry " << i;
      ASSERT_EQ(told.leases[key].size(), record.leases) << "entry " << i;
    }
    for (const WorkerRecord& worker : replica.state().ListWorkers("")) {
      ASSERT_EQ(told.alive.contains(worker.worker_id), worker.alive);
    }
  }
  EXPECT_GT(told.number, 100u) << "the log does nothing";
}

TEST(ReplicaTest, DamagedSnapshotsAreRefusedOrHarmless) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(absl::StrCat("repeat with WEFT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  Author author(seed);
  Replica replica(kOptions);
  for (int i = 0; i < 1500; ++i) replica.Apply(EncodeCommand(author.Next()));
  const std::string bytes = replica.Encode();
  for (size_t cut = 0; cut < bytes.size(); cut += 1 + random() % 7) {
    EXPECT_EQ(Replica::Decode(bytes.substr(0, cut), kOptions).status().code(),
              absl::StatusCode::kDataLoss);
  }
  EXPECT_FALSE(Replica::Decode(bytes + "x", kOptions).ok());
  int harmless = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string damaged = bytes;
    for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    auto decoded = Replica::Decode(damaged, kOptions);
    if (!decoded.ok()) {
      EXPECT_EQ(decoded.status().code(), absl::StatusCode::kDataLoss);
      continue;
    }
    ++harmless;
    Author more(random());
    for (int c = 0; c < 50; ++c) decoded->Apply(EncodeCommand(more.Next()));
  }
  EXPECT_GT(harmless, 10) << "only whole snapshots were tried";
}

// Found by fuzz_catalog_state: what a clock at the end of time had granted
// ended beyond it, and no server could read the snapshot.
TEST(ReplicaTest, AClockAtTheEndOfTimeLeavesASnapshotThatIsRead) {
  for (const int shift : {0, 30, 55, 56}) {
    Replica replica(kOptions);
    Command command;
    command.kind = Kind::kJoin;
    command.server = "a";
    command.number = 100;
    replica.Apply(EncodeCommand(command));
    command.kind = Kind::kTick;
    command.sequence = 1;
    command.now_ns = (int64_t{1} << 62) - (int64_t{1} << shift);
    replica.Apply(EncodeCommand(command));
    command.kind = Kind::kRegister;
    command.sequence = 2;
    command.info.model = "m";
    command.info.role = Role::kReceiver;
    replica.Apply(EncodeCommand(command));
    EXPECT_TRUE(Replica::Decode(replica.Encode(), kOptions).ok()) << shift;
  }
}

TEST(ReplicaTest, DamagedCommandsDoNothingBad) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(absl::StrCat("repeat with WEFT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  Author author(seed);
  Replica replica(kOptions);
  for (int i = 0; i < 5000; ++i) {
    std::string entry = EncodeCommand(author.Next());
    if (random() % 2 == 0) {
      entry[random() % entry.size()] = static_cast<char>(random());
    }
    if (random() % 20 == 0) entry.resize(random() % entry.size());
    replica.Apply(entry);
  }
  EXPECT_EQ(replica.entries(), 5000u);
  EXPECT_TRUE(Replica::Decode(replica.Encode(), kOptions).ok());
}

TEST(ReplicaTest, WhatComesTwiceIsDoneOnce) {
  Replica replica(kOptions);
  Command join;
  join.kind = Kind::kJoin;
  join.server = "a";
  join.number = 100;
  replica.Apply(EncodeCommand(join));
  Command put;
  put.kind = Kind::kPutPlacement;
  put.server = "a";
  put.sequence = 1;
  put.id = Digest(1);
  put.text = "place";
  EXPECT_EQ(replica.Apply(EncodeCommand(put)).placed, "place");
  EXPECT_FALSE(replica.Apply(EncodeCommand(put)).result.has_value());
  put.server = "stranger";
  EXPECT_FALSE(replica.Apply(EncodeCommand(put)).result.has_value());
  // One that was declared dead stays out, under the same name for good.
  Command leave;
  leave.kind = Kind::kLeave;
  leave.server = "a";
  leave.sequence = 2;
  leave.id = "a";
  EXPECT_EQ(replica.Apply(EncodeCommand(leave)).left, "a");
  EXPECT_FALSE(replica.Apply(EncodeCommand(join)).result.has_value());
  put.server = "a";
  put.sequence = 3;
  EXPECT_FALSE(replica.Apply(EncodeCommand(put)).result.has_value());
}

TEST(ReplicaTest, OneServerIsToldThatASnapshotIsDue) {
  Replica replica(kOptions, /*entries_a_snapshot=*/10);
  for (int i = 1; i <= 30; ++i) {
    Command tick;
    tick.server = "a";
    EXPECT_EQ(replica.Apply(EncodeCommand(tick)).snapshot_due, i % 10 == 0);
  }
}

}  // namespace
}  // namespace weft::catalog
