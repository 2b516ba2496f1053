// The file that holds a receiver's latch: any other bytes are refused, with a
// sentence, and what was written is read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>

#include "weft/session/state_file_internal.h"

namespace weft::session {
namespace {

using ::testing::HasSubstr;

ReceiverState State() {
  return {.dirty = true,
          .version = {"grpo-7", 3, 1200},
          .model = "org/qwen3-0.6b",
          .layout_digest_hex = std::string(60, 'a') + "09f0",
          .generation = 41,
          .process_id = 4242};
}

// Made by `printf ... | sha256sum`.
constexpr char kGolden[] =
    "weft-receiver-state 1\n"
    "state dirty\n"
    "version grpo-7:3:1200\n"
    "model org/qwen3-0.6b\n"
    "layout aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa09f0\n"
    "generation 41\n"
    "pid 4242\n"
    "checksum "
    "4ad5723befaa280640d7efbc5a13e9681304e33119d94d396cdcd2b74513b21d\n";

class StateFileTest : public ::testing::Test {
 protected:
  StateFileTest()
      : folder_(::testing::TempDir() + "weft_state_" +
                std::to_string(getpid())),
        path_(folder_ + "/rank0.state") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
  }
  ~StateFileTest() override { std::filesystem::remove_all(folder_); }
  void Put(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  const std::string folder_;
  const std::string path_;
};

TEST_F(StateFileTest, TheBytesAreTheOnesOfThePage) {
  EXPECT_EQ(EncodeReceiverState(State()), kGolden);
  const auto decoded = DecodeReceiverState(kGolden);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, State());
}

TEST_F(StateFileTest, WhatIsWrittenIsReadAndNothingElseIsLeft) {
  EXPECT_FALSE(ReadStateFile(path_)->has_value());
  ReceiverState state = State();
  for (const bool dirty : {true, false}) {
    state.dirty = dirty;
    state.version.step = std::numeric_limits<uint64_t>::max();
    ASSERT_TRUE(WriteStateFile(path_, state).ok());
    const auto read = ReadStateFile(path_);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, state);
  }
  int files = 0;
  for (const auto& each : std::filesystem::directory_iterator(folder_)) {
    EXPECT_EQ(each.path(), path_);
    ++files;
  }
  EXPECT_EQ(files, 1);
}

TEST_F(StateFileTest, AWriterThatDiedLeavesTheFileAsItWas) {
  ASSERT_TRUE(WriteStateFile(path_, State()).ok());
  std::ofstream(path_ + ".next") << "weft-rec";
  EXPECT_EQ(**ReadStateFile(path_), State());
  ReceiverState next = State();
  next.dirty = false;
  ASSERT_TRUE(WriteStateFile(path_, next).ok());
  EXPECT_EQ(**ReadStateFile(path_), next);
}

TEST_F(StateFileTest, EveryOtherByteAndEveryCutIsRefused) {
  const std::string good = kGolden;
  for (size_t i = 0; i < good.size(); ++i) {
    EXPECT_FALSE(DecodeReceiverState(good.substr(0, i)).ok()) << i;
    for (const int bit : {0, 3, 5}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 1 << bit);
      EXPECT_FALSE(DecodeReceiverState(bad).ok()) << i;
    }
  }
  EXPECT_FALSE(DecodeReceiverState(good + "\n").ok());
  EXPECT_FALSE(DecodeReceiverState(good + good).ok());
  EXPECT_EQ(DecodeReceiverState("weft-receiver-state 2\nx").status().code(),
            absl::StatusCode::kUnimplemented);
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 2000; ++i) {
    std::string noise(random() % 6000, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    EXPECT_FALSE(DecodeReceiverState(noise).ok());
    EXPECT_FALSE(DecodeReceiverState("weft-receiver-state 1\n" + noise).ok());
  }
}

TEST_F(StateFileTest, AFileOfAnotherKindIsNamedWithWhatToDo) {
  Put("model: qwen3\n");
  const auto foreign = ReadStateFile(path_);
  EXPECT_TRUE(absl::IsDataLoss(foreign.status()));
  EXPECT_THAT(std::string(foreign.status().message()), HasSubstr(path_));
  EXPECT_THAT(std::string(foreign.status().message()), HasSubstr("remove it"));
  Put(std::string(1 << 20, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(ReadStateFile(path_).status()));
  Put("");
  EXPECT_TRUE(absl::IsDataLoss(ReadStateFile(path_).status()));
  // A folder, and a pipe that nobody writes to.
  EXPECT_FALSE(ReadStateFile(folder_).ok());
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_FALSE(ReadStateFile(pipe).ok());
}

}  // namespace
}  // namespace weft::session
