// A server whose link to Redis stands still while another writes more than the
// log keeps: what it missed is cut away, and it must take the snapshot.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/redis/redis_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/redis_process.h"
#include "weft/catalog/testing/valve.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

using testing::kModel;
using testing::PublisherInfo;
using testing::RedisProcess;
using testing::Soon;
using testing::Valve;
using testing::Version;

TEST(RedisBehindTest, AReaderThatMissedWhatWasCutTakesTheSnapshot) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  Valve valve(redis.port());
  const auto writer =
      MakeRedisStore(redis.Url("p"), {.entries_a_snapshot = 64});
  ASSERT_EQ(writer.status(), absl::OkStatus());
  const auto late =
      MakeRedisStore(absl::StrCat("redis://127.0.0.1:", valve.port(), "/p"),
                     {.entries_a_snapshot = 64});
  ASSERT_EQ(late.status(), absl::OkStatus());

  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = manifest::DigestOf("placement").ToHex();
  ASSERT_EQ(
      (*writer)->PutPlacement(info.placement_digest_hex, "placement", Soon()),
      absl::OkStatus());
  const auto worker = (*writer)->Register(info, "", Soon());
  ASSERT_EQ(worker.status(), absl::OkStatus());
  const auto attachment = (*writer)->Attach(worker->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  const auto watch = (*late)->WatchVersions(kModel, Soon());
  ASSERT_EQ(watch.status(), absl::OkStatus());

  valve.Hold(true);
  constexpr uint64_t kSteps = 600;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    ASSERT_TRUE((*writer)->PublishShard(worker->worker_id, step, Soon()).ok());
  }
  valve.Hold(false);
  const base::Deadline deadline = Soon();
  auto record = (*watch)->Next(deadline);
  while (record.ok() && (record->version != Version(kSteps) ||
                         record->state != VersionState::kReady)) {
    record = (*watch)->Next(deadline);
  }
  EXPECT_EQ(record.status(), absl::OkStatus());
  // What both know is the same, and the one that was away can write.
  const auto mine = (*writer)->ListVersions(kModel, Soon());
  absl::StatusOr<std::vector<VersionRecord>> theirs =
      (*late)->ListVersions(kModel, Soon());
  while (absl::IsUnavailable(theirs.status()) && !deadline.Passed()) {
    theirs = (*late)->ListVersions(kModel, Soon());
  }
  ASSERT_EQ(theirs.status(), absl::OkStatus());
  ASSERT_EQ(theirs->size(), mine->size());
  for (size_t i = 0; i < mine->size(); ++i) {
    EXPECT_EQ((*theirs)[i].version, (*mine)[i].version);
    EXPECT_EQ((*theirs)[i].state, (*mine)[i].state);
  }
  EXPECT_EQ((*late)->Register(testing::ReceiverInfo(), "", Soon()).status(),
            absl::OkStatus());
}

}  // namespace
}  // namespace weft::catalog
