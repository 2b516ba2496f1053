// What Bind refuses, all faults at once, before anything moves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "weft/execute/testing/fake_fleet.h"
#include "weft/execute/testing/refit_case.h"

namespace weft::execute::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// One tensor "w" of [4,8] BF16 at source rank 0, plainly stored at both ends.
class BindTest : public ::testing::Test {
 protected:
  BindTest() {
    const tensor::Box box = tensor::Box::OfShape({4, 8}).value();
    layout::StoredTensor stored;
    stored.shape = {4, 8};
    stored.fragments = {
        {0, layout::IndexMap::RowMajor(box, {4, 8}, {0, 0}).value()}};
    source_ = {"hf", 0, 1, {{"w", tensor::DType::kBF16, {4, 8}}}, {stored}};
    source_.stored[0].name = "w.src";
    target_ = {"hf", 0, 1, {{"w", tensor::DType::kBF16, {4, 8}}}, {stored}};
    target_.stored[0].name = "w.dst";
    index_ = plan::SourceIndex::Make({{&source_, {}, 0}}).value();
    plan_ = plan::BuildPlan(*index_, target_, {}, {}).value();
    remote_.rank = 0;
    remote_.peer = &peer_;
    remote_.transport = &transport_;
    remote_.stored = {{&region_, 0}};
    local_ = {{local_memory_, 64, nullptr}};
  }

  absl::StatusOr<std::unique_ptr<Program>> Bind() {
    return BindPull(plan_, *index_, target_, convert::ReferenceKernels(),
                    local_, {remote_}, options_);
  }
  std::string Refusal(absl::StatusCode code) {
    const auto program = Bind();
    EXPECT_EQ(program.status().code(), code) << program.status();
    return std::string(program.status().message());
  }

  std::byte local_memory_[64] = {};
  std::byte remote_memory_[64] = {};
  manifest::Placement source_;
  manifest::Placement target_;
  std::shared_ptr<const plan::SourceIndex> index_;
  plan::Plan plan_;
  FakeTransport transport_;
  FakePeer peer_{"publisher rank 0", 1};
  FakeRemoteRegion region_{absl::MakeSpan(remote_memory_), false};
  RemoteRank remote_;
  std::vector<LocalStored> local_;
  ExecuteOptions options_;
};

TEST_F(BindTest, AcceptsWhatFitsExactly) {
  for (std::byte& byte : remote_memory_) byte = std::byte{7};
  auto program = Bind();
  ASSERT_TRUE(program.ok()) << program.status();
  const auto report = (*program)->Run(base::Deadline::Infinite());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(std::memcmp(local_memory_, remote_memory_, 64), 0);
  EXPECT_EQ(report->bytes_moved, 64);
  EXPECT_EQ(report->bytes_on_wire, 64);
  EXPECT_EQ(report->posted_ops, 1);
  EXPECT_EQ(report->posted_direct_bytes, 64);
  ASSERT_EQ(report->peers.size(), 1);
  EXPECT_EQ(report->peers[0].way, "short gets");
  EXPECT_FALSE(report->peers[0].mapped);
}

TEST_F(BindTest, ReportsEveryFault) {
  local_[0].size_bytes = 63;
  remote_.stored[0].offset_bytes = 1;
  options_.window = 0;
  options_.staging_bytes = 100;
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("window is 0"),
                    HasSubstr("staging_bytes is 100, must be at least 4096"),
                    HasSubstr("local memory of \"w.dst\" has 63 bytes, needs "
                              "64"),
                    HasSubstr("\"w.src\" needs 64 bytes at offset 1 of a "
                              "region of 64 bytes at rank 0")));
}

TEST_F(BindTest, OnlyRangeFaultsAreOutOfRange) {
  local_[0].size_bytes = 63;
  Refusal(absl::StatusCode::kOutOfRange);
}

TEST_F(BindTest, RefusesOffsetsThatOverflow) {
  remote_.stored[0].offset_bytes = std::numeric_limits<int64_t>::max();
  Refusal(absl::StatusCode::kOutOfRange);
  remote_.stored[0].offset_bytes = -1;
  Refusal(absl::StatusCode::kOutOfRange);
}

TEST_F(BindTest, RefusesRunsOutsideTheirTensors) {
  plan_.peers[0].moves[0].runs[0].src_offset = 1;
  EXPECT_THAT(Refusal(absl::StatusCode::kOutOfRange),
              HasSubstr("reaches source element 33 of 32"));
  plan_.peers[0].moves[0].runs[0].src_offset = 0;
  plan_.peers[0].moves[0].runs[0].dst_offset = -1;
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("malformed run"));
}

TEST_F(BindTest, RefusesRunsThatOverflow) {
  plan_.peers[0].moves[0].runs[0].modes = {
      {int64_t{1} << 40, int64_t{1} << 40, 1}};
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("malformed run"));
}

TEST_F(BindTest, RefusesRunsThatMissElements) {
  plan_.peers[0].moves[0].runs[0].modes = {{31, 1, 1}};
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("the runs copy 31 elements, the box [0,4)x[0,8) has "
                        "32"));
}

TEST_F(BindTest, RefusesAConversionThatTheEndsDoNotHave) {
  plan_.peers[0].moves[0].conversion = {tensor::DType::kF32,
                                        tensor::DType::kBF16};
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("conversion F32 -> BF16 does not fit \"w.src\" of "
                        "BF16"));
}

TEST_F(BindTest, RefusesMissingEnds) {
  remote_.stored[0].region = nullptr;
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("rank 0 has no imported region for \"w.src\""));
  remote_.rank = 3;
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("rank 0 of the plan has no connected peer"));
  remote_.rank = 0;
  remote_.stored[0].region = &region_;
  local_.clear();
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("no local memory is given for \"w.dst\""));
}

TEST_F(BindTest, RefusesIndicesThatDoNotExist) {
  plan_.peers[0].moves[0].src_stored = 5;
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("source stored index 5 is not below 1"));
  plan_.peers[0].moves[0].src_stored = 0;
  plan_.peers[0].moves[0].tensor = -1;
  EXPECT_THAT(Refusal(absl::StatusCode::kInvalidArgument),
              HasSubstr("tensor index -1"));
}

TEST_F(BindTest, RefusesARegistrationElsewhere) {
  std::byte elsewhere[64];
  const FakeRegion region(absl::MakeSpan(elsewhere));
  local_[0].region = &region;
  EXPECT_THAT(Refusal(absl::StatusCode::kOutOfRange),
              HasSubstr("does not lie in the registration"));
}

TEST_F(BindTest, WorksWithoutATransport) {
  remote_.transport = nullptr;
  auto program = Bind();
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_TRUE((*program)->Run(base::Deadline::Infinite()).ok());
}

TEST_F(BindTest, PushRefusesWhatTheTargetQuantises) {
  plan_.conversions.push_back({.conversion = {.from = tensor::DType::kBF16,
                                              .to = tensor::DType::kF8E4M3},
                               .lossy = true,
                               .num_tensors = 3});
  const auto program =
      BindPush(plan_, *index_, target_, convert::ReferenceKernels(), 9, {},
               remote_, options_);
  EXPECT_EQ(program.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(program.status().message()),
              HasSubstr("quantises 3 matrices itself"));
}

TEST_F(BindTest, PushOfARankWithoutMovesIsEmpty) {
  auto program = BindPush(plan_, *index_, target_, convert::ReferenceKernels(),
                          9, {}, remote_, options_);
  ASSERT_TRUE(program.ok()) << program.status();
  const auto report = (*program)->Run(base::Deadline::Infinite());
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->bytes_moved, 0);
}

}  // namespace
}  // namespace weft::execute::testing
