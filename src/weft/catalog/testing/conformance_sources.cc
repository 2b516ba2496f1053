// Replicas that keep a version alive, and copies.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "weft/catalog/testing/conformance.h"

namespace weft::catalog::testing {
namespace {

using ::absl::StatusCode;

std::vector<uint64_t> HoldersOf(const SourceSet& set,
                                const VersionId& version) {
  std::vector<uint64_t> generations;
  for (const SourceRecord& source : set.sources) {
    if (source.holds == version) generations.push_back(source.generation);
  }
  return generations;
}

// What the version's record must say of its sources: worked out anew from the
// list of them.
uint64_t SourceSetOfHolders(const SourceSet& set, const VersionId& version) {
  std::vector<SourceRecord> holders;
  for (const SourceRecord& source : set.sources) {
    if (source.holds == version) holders.push_back(source);
  }
  return SourceSetOf(holders);
}

// As fsdp:shard=2,replicate=2: ranks 0 and 2 hold the same, 1 and 3 do.
TEST_P(StoreConformanceTest, AReplicaKeepsAVersionReady) {
  std::vector<Member> mesh;
  for (int64_t rank = 0; rank < 4; ++rank) {
    mesh.push_back(Join(ReplicaInfo(rank, 4, rank % 2 == 0 ? 'a' : 'b')));
  }
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease = AcquireLease(receiver, Version(1));
  const uint64_t before = Find(Version(1)).source_set;
  const auto watch = Watch();
  mesh[0].attachment.reset();
  const VersionRecord fewer = AwaitRecord(
      *watch,
      [&](const VersionRecord& record) { return record.source_set != before; });
  EXPECT_EQ(fewer.state, VersionState::kReady);
  EXPECT_EQ(fewer.ranks_published, 4);
  EXPECT_EQ(fewer.leases, 1);
  const SourceSet left = *store().GetSources(kModel, Soon());
  EXPECT_EQ(HoldersOf(left, Version(1)),
            (std::vector<uint64_t>{mesh[1].registration.generation,
                                   mesh[2].registration.generation,
                                   mesh[3].registration.generation}));
  EXPECT_EQ(fewer.source_set, SourceSetOfHolders(left, Version(1)));
  EXPECT_EQ(other().ReleaseLease(lease, true, "", Soon()), absl::OkStatus());
  EXPECT_EQ(FindWorker(receiver.id()).committed, Version(1));

  // The last one of its kind takes the version with it.
  mesh[3].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  mesh[1].attachment.reset();
  const VersionRecord gone =
      AwaitState(*watch, Version(1), VersionState::kGone);
  EXPECT_EQ(gone.reason,
            "publisher rank 1 died or lost its connection; the next step heals "
            "it");
}

TEST_P(StoreConformanceTest, AReplicaThatComesBackHoldsNothingYet) {
  std::vector<Member> mesh;
  for (int64_t rank = 0; rank < 2; ++rank) {
    mesh.push_back(Join(ReplicaInfo(rank, 2, 'a')));
  }
  PublishAll(mesh, 1);
  mesh[0].attachment.reset();
  const uint64_t ready_set = Find(Version(1)).source_set;
  mesh[0] = Join(ReplicaInfo(0, 2, 'a'));
  const SourceSet sources = *store().GetSources(kModel, Soon());
  EXPECT_EQ(sources.sources.size(), 2u);
  EXPECT_EQ(HoldersOf(sources, Version(1)),
            std::vector<uint64_t>{mesh[1].registration.generation});
  EXPECT_EQ(Find(Version(1)).source_set, ready_set);
  // It has nothing to withdraw, and cannot stand in for the other one.
  EXPECT_EQ(*store().BeginUpdate(mesh[0].id(), Passed()), 0);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  mesh[0].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  mesh[0] = Join(ReplicaInfo(0, 2, 'a'));
  mesh[1].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
  mesh[1] = Join(ReplicaInfo(1, 2, 'a'));
  PublishAll(mesh, 2);
  EXPECT_EQ(Find(Version(2)).state, VersionState::kReady);
  EXPECT_EQ(Find(Version(2)).source_set,
            store().GetSources(kModel, Soon())->source_set);
}

TEST_P(StoreConformanceTest, ReplicasDoNotSaveWhatIsNotReady) {
  std::vector<Member> mesh;
  for (int64_t rank = 0; rank < 3; ++rank) {
    mesh.push_back(Join(ReplicaInfo(rank, 3, 'a')));
  }
  for (int64_t rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(store().PublishShard(mesh[rank].id(), 1, Soon()).status(),
              absl::OkStatus());
  }
  mesh[0].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kGone);
}

TEST_P(StoreConformanceTest, ShardKeysAreDigests) {
  WorkerInfo info = PublisherInfo(0, 1);
  info.shard_key = "the first half";
  EXPECT_EQ(Register(info).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(StoreConformanceTest, ACopyIsASourceOfTheVersionItHolds) {
  const std::vector<Member> mesh = JoinMesh(2);
  Member copy = Join(CopyInfo(5));
  EXPECT_EQ(store().PublishShard(copy.id(), 1, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  ASSERT_EQ(store().PublishShard(mesh[0].id(), 1, Soon()).status(),
            absl::OkStatus());
  EXPECT_EQ(store().PublishShard(copy.id(), 1, Soon()).status().code(),
            StatusCode::kFailedPrecondition)
      << "the version is STAGING";
  ASSERT_EQ(store().PublishShard(mesh[1].id(), 1, Soon()).status(),
            absl::OkStatus());
  EXPECT_EQ(store().GetSources(kModel, Soon())->sources.size(), 2u);

  const auto watch = Watch();
  const auto record = other().PublishShard(copy.id(), 1, Soon());
  ASSERT_EQ(record.status(), absl::OkStatus());
  EXPECT_EQ(record->ranks_published, 2);
  const Member receiver = Join(ReceiverInfo());
  const std::string lease = AcquireLease(receiver, Version(1));
  EXPECT_EQ(store().GetSources(kModel, Soon())->sources.at(2).binding, "");
  const SourceSet with_copy = *store().GetSources(kModel, lease, Soon());
  ASSERT_EQ(with_copy.sources.size(), 3u);
  EXPECT_EQ(with_copy.num_ranks, 2);
  const SourceRecord& told = with_copy.sources[2];
  EXPECT_EQ(told.role, Role::kCopy);
  EXPECT_EQ(told.rank, 5);
  EXPECT_EQ(told.worker_id, copy.id());
  EXPECT_EQ(told.generation, copy.registration.generation);
  EXPECT_EQ(told.host_id, "host-b");
  EXPECT_EQ(told.binding, "binding of rank 5");
  EXPECT_EQ(told.holds, Version(1));
  EXPECT_EQ(with_copy.sources[0].role, Role::kPublisher);
  EXPECT_EQ(record->source_set, with_copy.source_set);
  EXPECT_EQ(record->source_set, SourceSetOfHolders(with_copy, Version(1)));
  AwaitRecord(*watch, [&](const VersionRecord& seen) {
    return seen.source_set == record->source_set;
  });

  // It leaves at once, leases or not.
  EXPECT_EQ(*store().BeginUpdate(copy.id(), Soon()), 0);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  EXPECT_EQ(store().GetSources(kModel, Soon())->sources.size(), 2u);
  EXPECT_EQ(store().ReleaseLease(lease, true, "", Soon()), absl::OkStatus());

  // Its death takes nothing but itself.
  ASSERT_EQ(store().PublishShard(copy.id(), 1, Soon()).status(),
            absl::OkStatus());
  copy.attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  EXPECT_EQ(store().GetSources(kModel, Soon())->sources.size(), 2u);
  EXPECT_EQ(Find(Version(1)).source_set,
            store().GetSources(kModel, Soon())->source_set);
}

TEST_P(StoreConformanceTest, ACopyEndsWithItsVersionAndWithItsEpoch) {
  std::vector<Member> mesh = JoinMesh(1);
  const Member copy = Join(CopyInfo());
  PublishAll(mesh, 1);
  ASSERT_EQ(store().PublishShard(copy.id(), 1, Soon()).status(),
            absl::OkStatus());
  ASSERT_EQ(store().BeginUpdate(mesh[0].id(), Passed()).status(),
            absl::OkStatus());
  EXPECT_EQ(store().GetSources(kModel, Soon())->sources.size(), 1u);
  EXPECT_EQ(store().PublishShard(copy.id(), 1, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  PublishAll(mesh, 2);
  ASSERT_EQ(store().PublishShard(copy.id(), 2, Soon()).status(),
            absl::OkStatus());
  // A copy that says of no shard that it holds it keeps no version alive.
  mesh[0].attachment.reset();
  EXPECT_EQ(Find(Version(2)).state, VersionState::kGone);
  EXPECT_EQ(store().GetSources(kModel, Soon()).status().code(),
            StatusCode::kNotFound);
  EXPECT_EQ(copy.attachment->Health(), absl::OkStatus());

  const std::vector<Member> next = JoinMesh(1, 1);
  EXPECT_EQ(copy.attachment->Health().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Register(CopyInfo()).status().code(),
            StatusCode::kFailedPrecondition);
  PublishAll(next, 2);
  const Member newer = Join(CopyInfo(0, 1));
  EXPECT_EQ(store().PublishShard(newer.id(), 2, Soon()).status(),
            absl::OkStatus());
}

// Of publishers that ReplicaInfo names by these letters.
WorkerInfo StandIn(const std::string& letters, int64_t rank = 0) {
  WorkerInfo info = CopyInfo(rank);
  for (const char letter : letters) {
    info.held_shards.emplace_back(64, letter);
  }
  return info;
}

TEST_P(StoreConformanceTest, CopiesStandInForPublishersThatDie) {
  std::vector<Member> mesh;
  mesh.push_back(Join(ReplicaInfo(0, 2, 'a')));
  mesh.push_back(Join(ReplicaInfo(1, 2, 'b')));
  PublishAll(mesh, 1);
  const Member whole = Join(StandIn("ab"));
  const Member half = Join(StandIn("b", 3));
  ASSERT_EQ(store().PublishShard(whole.id(), 1, Soon()).status(),
            absl::OkStatus());
  ASSERT_EQ(store().PublishShard(half.id(), 1, Soon()).status(),
            absl::OkStatus());
  const SourceSet all = *store().GetSources(kModel, Soon());
  ASSERT_EQ(all.sources.size(), 4u);
  EXPECT_EQ(all.sources[1].shard_keys,
            std::vector<std::string>{std::string(64, 'b')});
  EXPECT_TRUE(all.sources[2].shard_keys.empty()) << "publishers have them";

  mesh[1].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  mesh[0].attachment.reset();
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  const Member receiver = Join(ReceiverInfo());
  const std::string lease = AcquireLease(receiver, Version(1));
  const SourceSet left = *store().GetSources(kModel, lease, Soon());
  EXPECT_EQ(left.num_ranks, 2);
  ASSERT_EQ(left.sources.size(), 2u);
  EXPECT_EQ(left.sources[0].worker_id, whole.id());
  EXPECT_EQ(left.sources[0].shard_keys, StandIn("ab").held_shards);
  EXPECT_EQ(left.sources[0].binding, "binding of rank 0");
  EXPECT_EQ(left.sources[1].shard_keys, StandIn("b").held_shards);
  EXPECT_EQ(Find(Version(1)).source_set, left.source_set);
  EXPECT_EQ(store().ReleaseLease(lease, true, "", Soon()), absl::OkStatus());

  // One that came later from a copy stands in as well.
  Member later = Join(StandIn("ab", 1));
  ASSERT_EQ(store().PublishShard(later.id(), 1, Soon()).status(),
            absl::OkStatus());
  ASSERT_EQ(store().BeginUpdate(whole.id(), Soon()).status(), absl::OkStatus());
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  const auto watch = Watch();
  later.attachment.reset();
  const VersionRecord gone =
      AwaitState(*watch, Version(1), VersionState::kGone);
  EXPECT_EQ(gone.reason,
            "publisher rank 0 is gone, and the last copy of what it held, " +
                later.id() +
                " of receiver rank 1, has ended; the next step heals it");
}

TEST_P(StoreConformanceTest, WhatLivesOnByCopiesEndsWithTheNextVersion) {
  for (const bool leased : {false, true}) {
    const uint64_t step = leased ? 3 : 1;
    std::vector<Member> mesh;
    mesh.push_back(Join(ReplicaInfo(0, 2, 'a')));
    mesh.push_back(Join(ReplicaInfo(1, 2, 'b')));
    PublishAll(mesh, step);
    const Member copy = Join(StandIn("ab"));
    ASSERT_EQ(store().PublishShard(copy.id(), step, Soon()).status(),
              absl::OkStatus());
    mesh.clear();
    const Member receiver = Join(ReceiverInfo());
    std::string lease;
    if (leased) lease = AcquireLease(receiver, Version(step));

    // Who comes back holds nothing of it, and ends nothing by an update.
    mesh.push_back(Join(ReplicaInfo(0, 2, 'a')));
    mesh.push_back(Join(ReplicaInfo(1, 2, 'b')));
    EXPECT_EQ(*store().BeginUpdate(mesh[0].id(), Passed()), 0);
    EXPECT_EQ(Find(Version(step)).state, VersionState::kReady);
    const auto watch = Watch();
    PublishAll(mesh, step + 1);
    EXPECT_EQ(Find(Version(step + 1)).state, VersionState::kReady);
    if (leased) {
      EXPECT_EQ(Find(Version(step)).state, VersionState::kRetiring);
      EXPECT_EQ(other().ReleaseLease(lease, true, "", Soon()),
                absl::OkStatus());
    }
    const VersionRecord gone =
        AwaitState(*watch, Version(step), VersionState::kGone);
    EXPECT_EQ(gone.reason, ToString(Version(step + 1)) + " is READY");
  }
}

TEST_P(StoreConformanceTest, HeldShardsAreCheckedBeforeTheyCount) {
  const std::vector<Member> mesh = JoinMesh(1);
  WorkerInfo stranger = ReceiverInfo();
  stranger.held_shards = {std::string(64, 'a')};
  WorkerInfo many = CopyInfo();
  for (int i = 0; i <= 256; ++i) {
    std::string key = std::to_string(i);
    many.held_shards.push_back(std::string(64 - key.size(), '0') + key);
  }
  for (const WorkerInfo& wrong :
       {stranger, many, StandIn("ba"), StandIn("aa"), StandIn("x")}) {
    EXPECT_EQ(Register(wrong).status().code(), StatusCode::kInvalidArgument);
  }
  many.held_shards.pop_back();
  EXPECT_EQ(Register(many).status(), absl::OkStatus());
}

TEST_P(StoreConformanceTest, ACopyIsNeitherPublisherNorReceiver) {
  EXPECT_EQ(Register(CopyInfo()).status().code(),
            StatusCode::kFailedPrecondition)
      << "there is no publisher";
  const std::vector<Member> mesh = JoinMesh(1);
  const Member copy = Join(CopyInfo());
  PublishAll(mesh, 1);
  EXPECT_EQ(store().AcquireLease(copy.id(), Version(1), Soon()).status().code(),
            StatusCode::kInvalidArgument);
  // Two of one rank: engines of one layout.
  const Member twin = Join(CopyInfo());
  for (const Member* each : {&copy, &twin}) {
    EXPECT_EQ(store().PublishShard(each->id(), 1, Soon()).status(),
              absl::OkStatus());
  }
  EXPECT_EQ(store().GetSources(kModel, Soon())->sources.size(), 3u);
}

}  // namespace
}  // namespace weft::catalog::testing
