// What the log of a catalog says of a trainer that goes back to a lower step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/catalog/state/catalog_state.h"

namespace weft::catalog {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr CatalogState::TimePoint kStart{std::chrono::hours(1)};
const std::string kDigest(64, 'a');

// A publisher of one rank that has published `step`.
void Publish(CatalogState& state, const std::string& run_id, uint64_t epoch,
             uint64_t step) {
  WorkerInfo info;
  info.model = "m";
  info.layout_spec = "hf";
  info.run_id = run_id;
  info.epoch = epoch;
  info.placement_digest_hex = kDigest;
  const auto worker = state.Register(info, "", kStart);
  ASSERT_TRUE(worker.ok()) << worker.status();
  ASSERT_TRUE(state.Attach(worker->worker_id, {"here", 1}).ok());
  ASSERT_TRUE(state.PublishShard(worker->worker_id, step).ok());
}

TEST(StepBackTest, TheLogNamesBothVersions) {
  CatalogState state(StateOptions{.first_number = 1});
  ASSERT_TRUE(state.placements().Put({kDigest, "", 1}));
  Publish(state, "run", 0, 7);
  EXPECT_THAT(state.TakeNotes(), IsEmpty());
  Publish(state, "run", 1, 0);
  EXPECT_THAT(
      state.TakeNotes(),
      ElementsAre(
          "model \"m\": epoch 1 of run \"run\" has taken over from "
          "epoch 0 of run \"run\" after run:0:7, 1 publishers fenced",
          "model \"m\": version run:1:0: step 0 follows the higher step "
          "7 of run:0:7: the trainer has gone back to a checkpoint, or "
          "to initial weights"));
  Publish(state, "run", 2, 8);
  EXPECT_THAT(
      state.TakeNotes(),
      ElementsAre("model \"m\": epoch 2 of run \"run\" has taken over from "
                  "epoch 1 of run \"run\" after run:1:0, 1 publishers fenced"));
  Publish(state, "new", 0, 9);
  EXPECT_THAT(
      state.TakeNotes(),
      ElementsAre("model \"m\": epoch 0 of run \"new\" has taken over from "
                  "epoch 2 of run \"run\" after run:2:8, 1 publishers fenced",
                  "model \"m\": version new:0:9: step 9 of run \"new\" follows "
                  "step 8 of another run, run:2:8"));
}

}  // namespace
}  // namespace weft::catalog
