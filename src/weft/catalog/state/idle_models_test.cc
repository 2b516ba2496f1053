// Models that have ended are forgotten, others never: whichever way their
// workers come and go.
#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"

namespace weft::catalog {
namespace {

constexpr std::chrono::seconds kAttachWithin(10);
constexpr CatalogState::TimePoint kStart{std::chrono::hours(1)};
const Holder kHere{"here", 1};
const std::string kDigest(64, 'd');

std::set<std::string> ModelsOf(const CatalogState& state) {
  std::set<std::string> models;
  for (const WorkerRecord& worker : state.ListWorkers("")) {
    models.insert(worker.info.model);
  }
  return models;
}

class IdleModelsTest : public ::testing::Test {
 protected:
  IdleModelsTest()
      : state_(
            StateOptions{.attach_within = kAttachWithin, .first_number = 1}) {
    state_.placements().Put({kDigest, "p", 9});
  }

  std::string Register(const std::string& model, Role role,
                       uint64_t epoch = 0) {
    WorkerInfo info;
    info.model = model;
    info.role = role;
    if (role != Role::kReceiver) {
      info.run_id = "run";
      info.epoch = epoch;
      info.placement_digest_hex = kDigest;
    }
    const auto made = state_.Register(info, "", kStart);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? made->worker_id : "";
  }
  std::string Join(const std::string& model, Role role, uint64_t epoch = 0) {
    std::string id = Register(model, role, epoch);
    EXPECT_TRUE(state_.Attach(id, kHere).ok());
    state_.TakeEvents();
    return id;
  }
  void End(const std::string& id) { state_.Detach(id, kHere); }

  // As many as push out all that have ended before.
  void OtherModelsEnd(const std::string& name) {
    for (int64_t i = 0; i <= kIdleModelsKept; ++i) {
      End(Join(absl::StrCat(name, i), Role::kReceiver));
    }
  }
  std::set<std::string> Models() const { return ModelsOf(state_); }

  CatalogState state_;
};

// After 4,096 models that had ended long ago no other one was taken, ever.
TEST_F(IdleModelsTest, MakeRoomTheOldestFirst) {
  Join("living", Role::kReceiver);
  for (int64_t i = 0; i < kMaxModels + 100; ++i) {
    End(Join(absl::StrCat("m", i), Role::kReceiver));
    // Who comes back now and then is kept.
    if (i % 500 == 0) End(Join("m0", Role::kReceiver));
  }
  const std::set<std::string> models = Models();
  EXPECT_EQ(models.size(), static_cast<size_t>(1 + kIdleModelsKept));
  EXPECT_TRUE(models.contains("living"));
  EXPECT_TRUE(models.contains("m0"));
  EXPECT_TRUE(models.contains(absl::StrCat("m", kMaxModels + 99)));
  EXPECT_FALSE(models.contains("m1"));
  EXPECT_FALSE(models.contains(absl::StrCat("m", kMaxModels - 1000)));
}

TEST_F(IdleModelsTest, WhoReadsASnapshotForgetsTheSameOnes) {
  OtherModelsEnd("m");
  base::ByteWriter writer;
  state_.Encode(writer);
  const std::string bytes = writer.Take();
  base::ByteReader reader(bytes);
  CatalogState other(StateOptions{.first_number = 1});
  const absl::Status decoded = other.Decode(reader);
  ASSERT_TRUE(decoded.ok()) << decoded;
  const std::set<std::string> before = Models();
  WorkerInfo info;
  info.model = "new";
  info.role = Role::kReceiver;
  for (CatalogState* each : {&state_, &other}) {
    ASSERT_TRUE(each->Register(info, "", kStart).ok());
  }
  EXPECT_FALSE(Models() == before);
  EXPECT_EQ(Models(), ModelsOf(other));
}

TEST_F(IdleModelsTest, EveryWayToComeAndGoCounts) {
  const std::string witness = Join("m", Role::kReceiver);
  Register("m", Role::kPublisher);  // and another one takes its rank
  Join("m", Role::kPublisher);
  Join("m", Role::kCopy);
  Join("m", Role::kPublisher, /*epoch=*/1);  // fences both
  Register("m", Role::kCopy, /*epoch=*/1);   // never attaches
  Register("m", Role::kReceiver);            // nor does it
  const std::string copy = Join("m", Role::kCopy, /*epoch=*/1);
  End(copy);
  End(copy);  // again
  const std::string orphan = Join("m", Role::kReceiver);
  const std::string taken = Join("m", Role::kReceiver);
  state_.Orphan(orphan, kHere, kStart);
  state_.Orphan(taken, kHere, kStart);
  ASSERT_TRUE(
      state_.Reattach(state_.FindRegistration(taken), {"there", 2}, true).ok());
  const std::string publisher = Join("m", Role::kPublisher, /*epoch=*/2);
  ASSERT_TRUE(state_.PublishShard(publisher, 7).ok());
  state_.Expire(kStart + kAttachWithin);
  End(publisher);
  state_.Detach(taken, {"there", 2});
  // The witness alone is left, and keeps it.
  OtherModelsEnd("a");
  EXPECT_TRUE(Models().contains("m"));
  EXPECT_EQ(state_.ListVersions("m").size(), 1u);
  End(witness);
  OtherModelsEnd("b");
  EXPECT_FALSE(Models().contains("m"));
  EXPECT_TRUE(state_.ListVersions("m").empty());
  // It begins anew, even with what came before: nobody knows better.
  ASSERT_TRUE(
      state_.PublishShard(Join("m", Role::kPublisher, /*epoch=*/1), 3).ok());
}

TEST_F(IdleModelsTest, TheirDeadMakeRoomForWorkers) {
  for (int i = 0; i < 64; ++i) End(Join("first", Role::kReceiver));
  for (int i = 0; i < 64; ++i) End(Join("second", Role::kReceiver));
  for (int64_t i = 128; i < kMaxWorkers; ++i) Register("m", Role::kReceiver);
  Register("second", Role::kReceiver);
  EXPECT_TRUE(state_.ListWorkers("first").empty());
  EXPECT_EQ(state_.ListWorkers("second").size(), 65u);
}

}  // namespace
}  // namespace weft::catalog
