#include "weft/catalog/testing/conformance.h"

#include <algorithm>
#include <string>
#include <utility>

namespace weft::catalog::testing {
namespace {

// SHA-256 of "placement", as sha256sum prints it.
constexpr char kPlacementDigest[] =
    "1480fb125459cbca6cff13fbac5d846220d91cf906e466eb2842ef350878138b";

}  // namespace

// A test program may want the names above only.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StoreConformanceTest);

const std::string& StoreConformanceTest::PlacementBytes() {
  static const auto* bytes = new std::string("placement");
  return *bytes;
}

WorkerInfo PublisherInfo(int64_t rank, int64_t num_ranks, uint64_t epoch,
                         const std::string& run_id) {
  return {.model = kModel,
          .role = Role::kPublisher,
          .layout_spec = "megatron:tp=2",
          .rank = rank,
          .num_ranks = num_ranks,
          .run_id = run_id,
          .epoch = epoch,
          .host_id = "host-a",
          .process_id = 100 + rank,
          .placement_digest_hex = kPlacementDigest,
          .model_card_digest_hex = "",
          .shard_key = ""};
}

WorkerInfo ReplicaInfo(int64_t rank, int64_t num_ranks, char key,
                       uint64_t epoch) {
  WorkerInfo info = PublisherInfo(rank, num_ranks, epoch);
  info.shard_key = std::string(64, key);
  return info;
}

WorkerInfo CopyInfo(int64_t rank, uint64_t epoch, const std::string& run_id) {
  WorkerInfo info = ReceiverInfo(rank);
  info.role = Role::kCopy;
  info.run_id = run_id;
  info.epoch = epoch;
  info.placement_digest_hex = kPlacementDigest;
  return info;
}

WorkerInfo ReceiverInfo(int64_t rank) {
  return {.model = kModel,
          .role = Role::kReceiver,
          .layout_spec = "vllm:tp=2",
          .rank = rank,
          .num_ranks = 8,
          .run_id = "",
          .epoch = 0,
          .host_id = "host-b",
          .process_id = 200 + rank,
          .placement_digest_hex = "",
          .model_card_digest_hex = "",
          .shard_key = ""};
}

VersionId Version(uint64_t step, uint64_t epoch, const std::string& run_id) {
  return {.run_id = run_id, .epoch = epoch, .step = step};
}

void StoreConformanceTest::SetUp() {
  under_test_ = GetParam().make({.now =
                                     [this] {
                                       return base::Deadline::Clock::time_point(
                                           std::chrono::nanoseconds(clock_ns_));
                                     },
                                 .lease_duration = kLeaseDuration,
                                 .attach_within = kAttachWithin});
  ASSERT_NE(under_test_, nullptr);
  ASSERT_EQ(store().PutPlacement(kPlacementDigest, PlacementBytes(), Soon()),
            absl::OkStatus());
}

absl::StatusOr<Registration> StoreConformanceTest::Register(
    const WorkerInfo& info) {
  return store().Register(info, "binding of rank " + std::to_string(info.rank),
                          Soon());
}

Member StoreConformanceTest::Join(const WorkerInfo& info) {
  Member member{.info = info, .registration = {}, .attachment = nullptr};
  const absl::StatusOr<Registration> registration = Register(info);
  EXPECT_EQ(registration.status(), absl::OkStatus());
  if (!registration.ok()) return member;
  member.registration = *registration;
  absl::StatusOr<std::unique_ptr<Attachment>> attachment =
      store().Attach(member.id(), Soon());
  EXPECT_EQ(attachment.status(), absl::OkStatus());
  if (attachment.ok()) member.attachment = *std::move(attachment);
  return member;
}

std::vector<Member> StoreConformanceTest::JoinMesh(int64_t num_ranks,
                                                   uint64_t epoch,
                                                   const std::string& run_id) {
  std::vector<Member> members;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    members.push_back(Join(PublisherInfo(rank, num_ranks, epoch, run_id)));
  }
  return members;
}

void StoreConformanceTest::PublishAll(const std::vector<Member>& members,
                                      uint64_t step) {
  for (const Member& member : members) {
    EXPECT_EQ(store().PublishShard(member.id(), step, Soon()).status(),
              absl::OkStatus());
  }
}

std::string StoreConformanceTest::AcquireLease(const Member& receiver,
                                               const VersionId& version) {
  const absl::StatusOr<Lease> lease =
      store().AcquireLease(receiver.id(), version, Soon());
  EXPECT_EQ(lease.status(), absl::OkStatus());
  return lease.ok() ? lease->lease_id : "";
}

std::unique_ptr<VersionWatch> StoreConformanceTest::Watch() {
  auto watch = store().WatchVersions(kModel, Soon());
  EXPECT_EQ(watch.status(), absl::OkStatus());
  return watch.ok() ? *std::move(watch) : nullptr;
}

VersionRecord StoreConformanceTest::AwaitRecord(
    VersionWatch& watch,
    const std::function<bool(const VersionRecord&)>& wanted) {
  const base::Deadline deadline = Soon();
  while (true) {
    const absl::StatusOr<VersionRecord> record = watch.Next(deadline);
    if (!record.ok()) {
      ADD_FAILURE() << record.status();
      return {};
    }
    if (wanted(*record)) return *record;
  }
}

VersionRecord StoreConformanceTest::AwaitState(VersionWatch& watch,
                                               const VersionId& version,
                                               VersionState state) {
  return AwaitRecord(watch, [&](const VersionRecord& record) {
    return record.version == version && record.state == state;
  });
}

VersionRecord StoreConformanceTest::Find(const VersionId& version) {
  const auto records = store().ListVersions(kModel, Soon());
  EXPECT_EQ(records.status(), absl::OkStatus());
  if (!records.ok()) return {};
  const auto found = std::find_if(
      records->begin(), records->end(),
      [&](const VersionRecord& record) { return record.version == version; });
  EXPECT_NE(found, records->end()) << ToString(version);
  return found == records->end() ? VersionRecord{} : *found;
}

WorkerRecord StoreConformanceTest::FindWorker(const std::string& worker_id) {
  const auto records = store().ListWorkers(kModel, Soon());
  EXPECT_EQ(records.status(), absl::OkStatus());
  if (!records.ok()) return {};
  const auto found = std::find_if(records->begin(), records->end(),
                                  [&](const WorkerRecord& record) {
                                    return record.worker_id == worker_id;
                                  });
  EXPECT_NE(found, records->end()) << worker_id;
  return found == records->end() ? WorkerRecord{} : *found;
}

}  // namespace weft::catalog::testing
