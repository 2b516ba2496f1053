// Placements, registration, attachments.
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "weft/catalog/limits.h"
#include "weft/catalog/testing/conformance.h"

namespace weft::catalog::testing {
namespace {

using ::absl::StatusCode;

TEST_P(StoreConformanceTest, PlacementIsFoundByItsDigest) {
  const std::string digest = PublisherInfo(0, 1).placement_digest_hex;
  const auto bytes = other().GetPlacement(digest, Soon());
  ASSERT_EQ(bytes.status(), absl::OkStatus());
  EXPECT_EQ(*bytes, PlacementBytes());
  EXPECT_EQ(store().PutPlacement(digest, PlacementBytes(), Soon()),
            absl::OkStatus());
}

TEST_P(StoreConformanceTest, PlacementKeepsEveryByte) {
  // SHA-256 of the two bytes 0x00 0xff.
  const std::string digest =
      "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312e"
      "b86dc7169389b8";
  const std::string bytes("\0\xff", 2);
  ASSERT_EQ(store().PutPlacement(digest, bytes, Soon()), absl::OkStatus());
  const auto read = other().GetPlacement(digest, Soon());
  ASSERT_EQ(read.status(), absl::OkStatus());
  EXPECT_EQ(*read, bytes);
}

TEST_P(StoreConformanceTest, PlacementOfAnotherDigestIsRefused) {
  const std::string digest = PublisherInfo(0, 1).placement_digest_hex;
  const absl::Status wrong = store().PutPlacement(digest, "other", Soon());
  EXPECT_EQ(wrong.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.message().find(digest), std::string::npos) << wrong;
  EXPECT_EQ(*store().GetPlacement(digest, Soon()), PlacementBytes());
  for (const std::string& bad :
       {std::string(), std::string("12"), std::string(64, 'g'),
        std::string(64, 'A'), std::string(65, 'a'), std::string(64, '\xff')}) {
    EXPECT_EQ(store().PutPlacement(bad, "x", Soon()).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(store().GetPlacement(bad, Soon()).status().code(),
              StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(store().GetPlacement(std::string(64, 'a'), Soon()).status().code(),
            StatusCode::kNotFound);
}

TEST_P(StoreConformanceTest, RegistrationsAreListedAndGrow) {
  const Member second = Join(PublisherInfo(1, 2));
  const Member first = Join(PublisherInfo(0, 2));
  const Member receiver = Join(ReceiverInfo(1));
  EXPECT_LT(second.registration.generation, first.registration.generation);
  EXPECT_LT(first.registration.generation, receiver.registration.generation);
  const auto workers = other().ListWorkers(kModel, Soon());
  ASSERT_EQ(workers.status(), absl::OkStatus());
  ASSERT_EQ(workers->size(), 3u);
  const std::vector<const Member*> order = {&first, &second, &receiver};
  for (size_t i = 0; i < order.size(); ++i) {
    const WorkerRecord& record = (*workers)[i];
    const WorkerInfo& info = order[i]->info;
    EXPECT_EQ(record.worker_id, order[i]->id());
    EXPECT_EQ(record.generation, order[i]->registration.generation);
    EXPECT_TRUE(record.alive);
    EXPECT_EQ(record.info.model, info.model);
    EXPECT_EQ(record.info.role, info.role);
    EXPECT_EQ(record.info.layout_spec, info.layout_spec);
    EXPECT_EQ(record.info.rank, info.rank);
    EXPECT_EQ(record.info.num_ranks, info.num_ranks);
    EXPECT_EQ(record.info.run_id, info.run_id);
    EXPECT_EQ(record.info.epoch, info.epoch);
    EXPECT_EQ(record.info.host_id, info.host_id);
    EXPECT_EQ(record.info.process_id, info.process_id);
    EXPECT_EQ(record.info.placement_digest_hex, info.placement_digest_hex);
    EXPECT_EQ(record.committed, VersionId());
    EXPECT_EQ(record.fenced_reason, "");
  }
  EXPECT_TRUE(store().ListWorkers("unknown", Soon())->empty());
  EXPECT_EQ(store().ListWorkers("", Soon())->size(), 3u);
}

TEST_P(StoreConformanceTest, RegistrationIsCheckedAndNamesEveryFault) {
  WorkerInfo info = PublisherInfo(5, 4);
  info.model = "bad model";
  info.run_id = "";
  info.host_id = std::string("\x01", 1);
  info.placement_digest_hex = "zz";
  const absl::Status status = Register(info).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  for (const char* part : {"bad model", "run id", "host_id", "rank 5", "zz"}) {
    EXPECT_NE(status.message().find(part), std::string::npos)
        << part << " in " << status;
  }
  using Edit = void (*)(WorkerInfo&);
  for (const Edit edit : std::vector<Edit>{
           [](WorkerInfo& i) { i.model.clear(); },
           [](WorkerInfo& i) { i.model = std::string(129, 'm'); },
           [](WorkerInfo& i) { i.model = "m\xc3\xa9"; },
           [](WorkerInfo& i) { i.run_id = "a:b"; },
           [](WorkerInfo& i) { i.layout_spec = std::string(5000, 'x'); },
           [](WorkerInfo& i) { i.layout_spec = "\xff"; },
           [](WorkerInfo& i) { i.rank = -1; },
           [](WorkerInfo& i) { i.num_ranks = 0; },
           [](WorkerInfo& i) { i.num_ranks = int64_t{1} << 40; },
           [](WorkerInfo& i) { i.role = Role{7}; }}) {
    WorkerInfo bad = PublisherInfo(0, 1);
    edit(bad);
    EXPECT_EQ(Register(bad).status().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(store().ListWorkers("", Soon())->empty());
}

TEST_P(StoreConformanceTest, PublisherNeedsItsPlacement) {
  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = std::string(64, 'a');
  const absl::Status status = Register(info).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find(info.placement_digest_hex),
            std::string::npos);
}

TEST_P(StoreConformanceTest, ModelCardComesWithTheSources) {
  // SHA-256 of "card", as sha256sum prints it.
  const std::string digest =
      "8367cd66fdd136bba8ba23f8805bb050dd6289401c8ec3b0be44a3c233eef90d";
  WorkerInfo info = PublisherInfo(1, 3);
  info.model_card_digest_hex = digest;
  EXPECT_EQ(Register(info).status().code(), StatusCode::kNotFound);
  ASSERT_EQ(store().PutPlacement(digest, "card", Soon()), absl::OkStatus());
  const Member without = Join(PublisherInfo(0, 3));
  EXPECT_EQ(store().GetSources(kModel, Soon())->model_card_digest_hex, "");
  const Member with = Join(info);
  EXPECT_EQ(other().GetSources(kModel, Soon())->model_card_digest_hex, digest);
  EXPECT_EQ(FindWorker(with.id()).info.model_card_digest_hex, digest);
  info = PublisherInfo(2, 3);
  info.model_card_digest_hex = "zz";
  EXPECT_EQ(Register(info).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(StoreConformanceTest, OnePublisherPerRank) {
  Member first = Join(PublisherInfo(0, 2));
  const absl::Status status = Register(PublisherInfo(0, 2)).status();
  EXPECT_EQ(status.code(), StatusCode::kAlreadyExists);
  EXPECT_NE(status.message().find("rank 0"), std::string::npos) << status;
  EXPECT_NE(status.message().find("larger epoch"), std::string::npos) << status;
  EXPECT_EQ(first.attachment->Health(), absl::OkStatus());
  first.attachment.reset();
  EXPECT_FALSE(FindWorker(first.id()).alive);
  const Member again = Join(PublisherInfo(0, 2));
  EXPECT_GT(again.registration.generation, first.registration.generation);
}

TEST_P(StoreConformanceTest, OneOfManyThreadsGetsTheRank) {
  constexpr int kThreads = 8;
  std::vector<absl::Status> results(kThreads);
  std::vector<std::unique_ptr<Attachment>> attachments(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([this, &results, &attachments, i] {
      CatalogStore& mine = i % 2 == 0 ? store() : other();
      const auto worker = mine.Register(PublisherInfo(0, 1), "", Soon());
      results[i] = worker.status();
      if (!worker.ok()) return;
      auto attachment = mine.Attach(worker->worker_id, Soon());
      results[i] = attachment.status();
      if (attachment.ok()) attachments[i] = *std::move(attachment);
    });
  }
  for (std::thread& thread : threads) thread.join();
  int won = 0;
  for (const absl::Status& result : results) {
    won += result.ok() ? 1 : 0;
    // Another one has it, or has registered before this one had attached.
    EXPECT_TRUE(result.ok() || result.code() == StatusCode::kAlreadyExists ||
                result.code() == StatusCode::kNotFound)
        << result;
  }
  EXPECT_EQ(won, 1);
}

TEST_P(StoreConformanceTest, SeveralReceiversOfOneRankAreFine) {
  const Member first = Join(ReceiverInfo(0));
  const Member second = Join(ReceiverInfo(0));
  EXPECT_NE(first.id(), second.id());
}

TEST_P(StoreConformanceTest, MeshMustAgree) {
  const Member first = Join(PublisherInfo(0, 2));
  const absl::Status ranks = Register(PublisherInfo(1, 3)).status();
  EXPECT_EQ(ranks.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(ranks.message().find("3"), std::string::npos) << ranks;
  WorkerInfo info = PublisherInfo(1, 2);
  info.layout_spec = "fsdp:shard=2";
  const absl::Status layout = Register(info).status();
  EXPECT_EQ(layout.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(layout.message().find("fsdp:shard=2"), std::string::npos);
  EXPECT_NE(layout.message().find("megatron:tp=2"), std::string::npos);
}

TEST_P(StoreConformanceTest, MeshMayChangeWhenNoPublisherLives) {
  Member first = Join(PublisherInfo(0, 2));
  first.attachment.reset();
  const std::vector<Member> mesh = JoinMesh(3);
  PublishAll(mesh, 1);
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
  EXPECT_EQ(Find(Version(1)).ranks_expected, 3);
}

TEST_P(StoreConformanceTest, NewerEpochTakesOver) {
  const std::vector<Member> old_mesh = JoinMesh(2, 3);
  PublishAll(old_mesh, 7);
  const auto watch = Watch();
  AwaitState(*watch, Version(7, 3), VersionState::kReady);

  const Member newer = Join(PublisherInfo(0, 4, 4));
  const VersionRecord gone =
      AwaitState(*watch, Version(7, 3), VersionState::kGone);
  EXPECT_NE(gone.reason.find("epoch 4"), std::string::npos) << gone.reason;
  for (const Member& fenced : old_mesh) {
    EXPECT_EQ(fenced.attachment->Health().code(),
              StatusCode::kFailedPrecondition);
    EXPECT_EQ(store().PublishShard(fenced.id(), 8, Soon()).status().code(),
              StatusCode::kFailedPrecondition);
    EXPECT_EQ(store().BeginUpdate(fenced.id(), Soon()).status().code(),
              StatusCode::kFailedPrecondition);
    EXPECT_FALSE(FindWorker(fenced.id()).alive);
  }
  EXPECT_EQ(newer.attachment->Health(), absl::OkStatus());
  const absl::Status older = Register(PublisherInfo(1, 2, 3)).status();
  EXPECT_EQ(older.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(older.message().find("epoch 3"), std::string::npos) << older;
  EXPECT_NE(older.message().find("epoch 4"), std::string::npos) << older;
}

TEST_P(StoreConformanceTest, OlderEpochStaysOutAfterTheNewerOneDied) {
  { const Member newer = Join(PublisherInfo(0, 1, 4)); }
  EXPECT_EQ(Register(PublisherInfo(0, 1, 3)).status().code(),
            StatusCode::kFailedPrecondition);
  { const Member other_run = Join(PublisherInfo(0, 1, 0, "other")); }
  EXPECT_EQ(Register(PublisherInfo(0, 1, 3)).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(Register(PublisherInfo(0, 1, 4)).status(), absl::OkStatus());
}

TEST_P(StoreConformanceTest, AnotherRunTakesOver) {
  const std::vector<Member> mesh = JoinMesh(1, 9, "zebra");
  PublishAll(mesh, 1);
  const std::vector<Member> next = JoinMesh(2, 0, "ant");
  EXPECT_EQ(mesh[0].attachment->Health().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(Find(Version(1, 9, "zebra")).state, VersionState::kGone);
  PublishAll(next, 1);
  EXPECT_EQ(Find(Version(1, 0, "ant")).state, VersionState::kReady);
}

TEST_P(StoreConformanceTest, ModelsDoNotMeet) {
  const Member one = Join(PublisherInfo(0, 1));
  WorkerInfo info = PublisherInfo(0, 1, 5);
  info.model = "another";
  const Member two = Join(info);
  EXPECT_EQ(one.attachment->Health(), absl::OkStatus());
  ASSERT_EQ(store().PublishShard(one.id(), 1, Soon()).status(),
            absl::OkStatus());
  ASSERT_EQ(store().PublishShard(two.id(), 2, Soon()).status(),
            absl::OkStatus());
  const auto all = store().ListVersions("", Soon());
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ((*all)[0].model, "another");
  EXPECT_EQ((*all)[1].model, kModel);
  EXPECT_EQ(store().ListVersions(kModel, Soon())->size(), 1u);
  const Member receiver = Join(ReceiverInfo());
  EXPECT_EQ(store()
                .AcquireLease(receiver.id(), Version(2, 5), Soon())
                .status()
                .code(),
            StatusCode::kNotFound);
}

TEST_P(StoreConformanceTest, AttachmentIsTheSignOfLife) {
  const auto registration = Register(PublisherInfo(0, 1));
  ASSERT_EQ(registration.status(), absl::OkStatus());
  const std::string& id = registration->worker_id;
  EXPECT_FALSE(FindWorker(id).alive);
  EXPECT_EQ(store().PublishShard(id, 1, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(store().BeginUpdate(id, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  auto attachment = store().Attach(id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  EXPECT_TRUE(FindWorker(id).alive);
  EXPECT_EQ((*attachment)->Health(), absl::OkStatus());
  EXPECT_EQ(other().Attach(id, Soon()).status().code(),
            StatusCode::kAlreadyExists);
  attachment->reset();
  EXPECT_FALSE(FindWorker(id).alive);
  EXPECT_EQ(store().Attach(id, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(store().PublishShard(id, 1, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
}

TEST_P(StoreConformanceTest, RegistrationThatIsNotAttachedIsDropped) {
  const auto late = Register(PublisherInfo(0, 1));
  ASSERT_EQ(late.status(), absl::OkStatus());
  AdvanceClock(kAttachWithin - std::chrono::nanoseconds(1));
  EXPECT_EQ(store().ListWorkers(kModel, Soon())->size(), 1u);
  AdvanceClock(std::chrono::nanoseconds(1));
  EXPECT_EQ(store().ListWorkers(kModel, Soon())->size(), 0u);
  const Member next = Join(PublisherInfo(0, 1));
  EXPECT_EQ(store().Attach(late->worker_id, Soon()).status().code(),
            StatusCode::kNotFound);
  AdvanceClock(kAttachWithin * 10);
  EXPECT_TRUE(FindWorker(next.id()).alive);
  EXPECT_EQ(next.attachment->Health(), absl::OkStatus());
}

// A trainer that died between the two calls, started again by its supervisor.
TEST_P(StoreConformanceTest, ARankThatHasNotAttachedIsRegisteredAgain) {
  const Member other_rank = Join(PublisherInfo(1, 2));
  const auto dead = Register(PublisherInfo(0, 2));
  ASSERT_EQ(dead.status(), absl::OkStatus());
  // Neither does what it registered bind who comes after it.
  WorkerInfo wrong = PublisherInfo(0, 3);
  EXPECT_EQ(Register(wrong).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(FindWorker(dead->worker_id).alive, false);
  const Member next = Join(PublisherInfo(0, 2));
  EXPECT_GT(next.registration.generation, dead->generation);
  EXPECT_EQ(store().Attach(dead->worker_id, Soon()).status().code(),
            StatusCode::kNotFound);
  EXPECT_EQ(store().Reattach(*dead, Soon()).status().code(),
            StatusCode::kNotFound);
  // One that has attached is not replaced.
  EXPECT_EQ(Register(PublisherInfo(0, 2)).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(next.attachment->Health(), absl::OkStatus());
  ASSERT_TRUE(store().PublishShard(next.id(), 1, Soon()).ok());
  ASSERT_TRUE(store().PublishShard(other_rank.id(), 1, Soon()).ok());
  EXPECT_EQ(Find(Version(1)).state, VersionState::kReady);
}

// Who was replaced while it was cut off does not take the model back.
TEST_P(StoreConformanceTest, APublisherRejoinsItsOwnRunOnly) {
  WorkerInfo info = PublisherInfo(0, 1);
  info.rejoins = true;
  {
    const Member back = Join(info);  // to a catalog that knows nothing
    EXPECT_FALSE(FindWorker(back.id()).info.rejoins);
    EXPECT_EQ(Register(info).status().code(), StatusCode::kAlreadyExists);
  }
  { const Member again = Join(info); }
  const Member another = Join(PublisherInfo(0, 1, 0, "another"));
  const absl::Status refused = Register(info).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("\"another\" has taken over"),
            std::string::npos)
      << refused;
  EXPECT_EQ(another.attachment->Health(), absl::OkStatus());
  // A newer epoch of the run that is there may, an older one may not.
  const Member newer = Join(PublisherInfo(0, 1, 5, "another"));
  WorkerInfo older = PublisherInfo(0, 1, 4, "another");
  older.rejoins = true;
  EXPECT_EQ(Register(older).status().code(), StatusCode::kFailedPrecondition);
  older.epoch = 6;
  EXPECT_TRUE(Register(older).ok());
}

TEST_P(StoreConformanceTest, UnknownWorkersAreNotFound) {
  for (const std::string& id :
       {std::string(), std::string("w0"), std::string("\xff\0\x01", 3),
        std::string(100000, 'w')}) {
    EXPECT_EQ(store().Attach(id, Soon()).status().code(),
              StatusCode::kNotFound);
    EXPECT_EQ(store().PublishShard(id, 1, Soon()).status().code(),
              StatusCode::kNotFound);
    EXPECT_EQ(store().BeginUpdate(id, Soon()).status().code(),
              StatusCode::kNotFound);
    EXPECT_EQ(store().AcquireLease(id, Version(1), Soon()).status().code(),
              StatusCode::kNotFound);
    EXPECT_EQ(store().ReleaseLease(id, false, "", Soon()).code(),
              StatusCode::kNotFound);
  }
}

TEST_P(StoreConformanceTest, RolesAreNotMixedUp) {
  const Member publisher = Join(PublisherInfo(0, 1));
  const Member receiver = Join(ReceiverInfo());
  EXPECT_EQ(store().PublishShard(receiver.id(), 1, Soon()).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store().BeginUpdate(receiver.id(), Soon()).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(
      store().AcquireLease(publisher.id(), Version(1), Soon()).status().code(),
      StatusCode::kInvalidArgument);
}

TEST_P(StoreConformanceTest, SourcesAreTheLivePublishers) {
  EXPECT_EQ(store().GetSources(kModel, Soon()).status().code(),
            StatusCode::kNotFound);
  const Member receiver = Join(ReceiverInfo());
  Member second = Join(PublisherInfo(1, 3));
  const Member first = Join(PublisherInfo(0, 3));
  ASSERT_EQ(Register(PublisherInfo(2, 3)).status(), absl::OkStatus());
  const auto sources = other().GetSources(kModel, Soon());
  ASSERT_EQ(sources.status(), absl::OkStatus());
  EXPECT_EQ(sources->num_ranks, 3);
  ASSERT_EQ(sources->sources.size(), 2u);
  EXPECT_EQ(sources->sources[0].rank, 0);
  EXPECT_EQ(sources->sources[0].generation, first.registration.generation);
  EXPECT_EQ(sources->sources[0].host_id, "host-a");
  EXPECT_EQ(sources->sources[0].binding, "") << "without a lease";
  EXPECT_EQ(sources->sources[0].placement_digest_hex,
            first.info.placement_digest_hex);
  EXPECT_EQ(sources->sources[1].rank, 1);
  EXPECT_EQ(sources->source_set,
            store().GetSources(kModel, Soon())->source_set);

  second.attachment.reset();
  const auto fewer = store().GetSources(kModel, Soon());
  ASSERT_EQ(fewer->sources.size(), 1u);
  EXPECT_NE(fewer->source_set, sources->source_set);
  second = Join(PublisherInfo(1, 3));
  const auto again = store().GetSources(kModel, Soon());
  ASSERT_EQ(again->sources.size(), 2u);
  EXPECT_NE(again->source_set, fewer->source_set);
  EXPECT_NE(again->source_set, sources->source_set);
}

// Addresses and memory keys are for those who hold a lease.
TEST_P(StoreConformanceTest, BindingsAreForALeaseThatIsInForce) {
  const std::vector<Member> mesh = JoinMesh(2);
  const Member receiver = Join(ReceiverInfo());
  PublishAll(mesh, 1);
  const std::string lease_id = AcquireLease(receiver, Version(1));
  EXPECT_EQ(WorkerOfLease(lease_id), receiver.id());
  const auto sources = other().GetSources(kModel, lease_id, Soon());
  ASSERT_EQ(sources.status(), absl::OkStatus());
  ASSERT_EQ(sources->sources.size(), 2u);
  EXPECT_EQ(sources->sources[0].binding, "binding of rank 0");
  EXPECT_EQ(sources->sources[1].binding, "binding of rank 1");
  EXPECT_EQ(store().GetSources("another", lease_id, Soon()).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store().GetSources(kModel, "l1.w2", Soon()).status().code(),
            StatusCode::kNotFound);
  ASSERT_EQ(store().ReleaseLease(lease_id, true, "", Soon()), absl::OkStatus());
  EXPECT_EQ(store().GetSources(kModel, lease_id, Soon()).status().code(),
            StatusCode::kNotFound);
  const std::string revoked = AcquireLease(receiver, Version(1));
  ASSERT_EQ(store().BeginUpdate(mesh[0].id(), Passed()).status(),
            absl::OkStatus());
  EXPECT_EQ(store().GetSources(kModel, revoked, Soon()).status().code(),
            StatusCode::kFailedPrecondition);
}

TEST_P(StoreConformanceTest, AWorkerHoldsSoManyLeasesAndNoMore) {
  const std::vector<Member> mesh = JoinMesh(1);
  const Member greedy = Join(ReceiverInfo());
  const Member modest = Join(ReceiverInfo(1));
  PublishAll(mesh, 1);
  for (int64_t i = 0; i < kMaxLeasesOfWorker; ++i) {
    ASSERT_NE(AcquireLease(greedy, Version(1)), "");
  }
  const auto more = store().AcquireLease(greedy.id(), Version(1), Soon());
  EXPECT_EQ(more.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(AcquireLease(modest, Version(1)), "");
}

TEST_P(StoreConformanceTest, LabelsAreThoseOfAllPublishers) {
  WorkerInfo info = PublisherInfo(0, 2);
  info.labels = {{"precision", "fp8"}, {"revision", "a1"}};
  const Member first = Join(info);
  info.rank = 1;
  info.labels["precision"] = "bf16";
  const auto other_labels = Register(info);
  EXPECT_EQ(other_labels.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(other_labels.status().message().find("precision=bf16"),
            std::string::npos);
  info.labels["precision"] = "fp8";
  const Member second = Join(info);
  auto watch = Watch();
  ASSERT_TRUE(store().PublishShard(first.id(), 1, Soon()).ok());
  ASSERT_TRUE(store().PublishShard(second.id(), 1, Soon()).ok());
  EXPECT_EQ(AwaitState(*watch, Version(1), VersionState::kReady).labels,
            info.labels);
  EXPECT_EQ(Find(Version(1)).labels, info.labels);
  EXPECT_EQ(FindWorker(first.id()).info.labels, info.labels);

  const auto found = WaitForReady(store(), kModel, nullptr, nullptr, Soon(),
                                  nullptr, {{"precision", "fp8"}});
  ASSERT_EQ(found.status(), absl::OkStatus());
  EXPECT_EQ(found->version, Version(1));
  const auto none =
      WaitForReady(store(), kModel, nullptr, nullptr,
                   base::Deadline::After(std::chrono::milliseconds(50)),
                   nullptr, {{"precision", "bf16"}});
  EXPECT_EQ(none.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(none.status().message().find("with the labels precision=bf16"),
            std::string::npos)
      << none.status();
}

TEST_P(StoreConformanceTest, LabelsAreFewShortAndPublishersOnly) {
  WorkerInfo info = PublisherInfo(0, 1);
  for (int64_t i = 0; i <= kMaxLabels; ++i) {
    info.labels[std::to_string(i)] = "x";
  }
  EXPECT_EQ(Register(info).status().code(), StatusCode::kInvalidArgument);
  info.labels = {{"a", std::string(kMaxLabelBytes + 1, 'x')}};
  EXPECT_EQ(Register(info).status().code(), StatusCode::kInvalidArgument);
  info.labels = {{"a b", "x"}};
  EXPECT_EQ(Register(info).status().code(), StatusCode::kInvalidArgument);
  info.labels = {{"a", "line\n"}};
  EXPECT_EQ(Register(info).status().code(), StatusCode::kInvalidArgument);
  WorkerInfo receiver = ReceiverInfo();
  receiver.labels = {{"a", "x"}};
  EXPECT_EQ(Register(receiver).status().code(), StatusCode::kInvalidArgument);
  info.labels = {{"a", std::string(kMaxLabelBytes, 'x')}};
  EXPECT_EQ(Register(info).status(), absl::OkStatus());
}

}  // namespace
}  // namespace weft::catalog::testing
