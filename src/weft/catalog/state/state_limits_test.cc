// What a catalog holds at most: it says so, and goes on when others have ended.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/catalog_state.h"

namespace weft::catalog {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kAttachWithin(10);
constexpr CatalogState::TimePoint kStart{std::chrono::hours(1)};

WorkerInfo Receiver(const std::string& model) {
  WorkerInfo info;
  info.model = model;
  info.role = Role::kReceiver;
  return info;
}

CatalogState MakeState() {
  return CatalogState(
      StateOptions{.attach_within = kAttachWithin, .first_number = 1});
}

TEST(StateLimitsTest, OneModelTooManyIsRefusedAndTheOthersGoOn) {
  CatalogState state = MakeState();
  for (int64_t i = 0; i < kMaxModels; ++i) {
    ASSERT_TRUE(
        state.Register(Receiver(absl::StrCat("m", i)), "", kStart).ok());
  }
  const absl::Status refused =
      state.Register(Receiver("new"), "", kStart).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("4096 models"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("\"new\""));
  const auto known = state.Register(Receiver("m7"), "", kStart);
  ASSERT_TRUE(known.ok()) << known.status();
  EXPECT_TRUE(state.Attach(known->worker_id, {"here", 1}).ok());
}

TEST(StateLimitsTest, OneWorkerTooManyIsRefusedUntilOthersEnd) {
  CatalogState state = MakeState();
  for (int64_t i = 0; i < kMaxWorkers; ++i) {
    ASSERT_TRUE(state.Register(Receiver("m"), "", kStart).ok());
  }
  const absl::Status refused =
      state.Register(Receiver("m"), "", kStart).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("100000 workers"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("register again"));
  // None of them has attached in time.
  state.Expire(kStart + kAttachWithin);
  EXPECT_TRUE(state.ListWorkers("m").empty());
  EXPECT_TRUE(state.Register(Receiver("m"), "", kStart).ok());
}

// A worker that died is still listed, and counts until it is forgotten.
TEST(StateLimitsTest, TheDeadMakeRoom) {
  CatalogState state = MakeState();
  for (int64_t i = 0; i < kMaxWorkers; ++i) {
    const auto worker = state.Register(Receiver("m"), "", kStart);
    ASSERT_TRUE(worker.ok()) << worker.status();
    ASSERT_TRUE(state.Attach(worker->worker_id, {"here", 1}).ok());
    if (i % 2 == 0) state.Detach(worker->worker_id, {"here", 1});
    state.TakeEvents();
  }
  // Half of them have died, and all but 64 of those are forgotten.
  EXPECT_EQ(state.ListWorkers("m").size(),
            static_cast<size_t>(kMaxWorkers / 2 + 64));
  EXPECT_TRUE(state.Register(Receiver("m"), "", kStart).ok());
}

}  // namespace
}  // namespace weft::catalog
