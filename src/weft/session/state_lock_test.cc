// Who holds a state file, over processes that end, are killed and fork others.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/session/state_lock_internal.h"

namespace weft::session {
namespace {

using ::testing::HasSubstr;

class StateLockTest : public ::testing::Test {
 protected:
  StateLockTest()
      : folder_(absl::StrCat(::testing::TempDir(), "weft_lock_", getpid())),
        path_(folder_ + "/rank0.state") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
  }
  ~StateLockTest() override { std::filesystem::remove_all(folder_); }

  const std::string folder_;
  const std::string path_;
};

// A process that does something and tells of it, then waits for its end.
class Child {
 public:
  explicit Child(const std::function<bool()>& does) {
    int told[2];
    int held[2];
    EXPECT_EQ(pipe(told), 0);
    EXPECT_EQ(pipe(held), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(held[1]);
      const char done = does() ? 1 : 0;
      char none = 0;
      const bool said = write(told[1], &done, 1) == 1;
      // Until the other end is closed, by whomever and however.
      while (said && read(held[0], &none, 1) > 0) {
      }
      _exit(0);
    }
    close(held[0]);
    close(told[1]);
    held_ = held[1];
    char done = 0;
    EXPECT_EQ(read(told[0], &done, 1), 1);
    EXPECT_EQ(done, 1);
    close(told[0]);
  }
  ~Child() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
    close(held_);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int held_ = -1;
};

TEST_F(StateLockTest, AnotherOfTheProcessIsRefusedUntilTheFirstIsClosed) {
  auto first = StateLock::Take(path_);
  ASSERT_TRUE(first.ok()) << first.status();
  for (const std::string& spelled :
       {path_, folder_ + "/../" +
                   std::filesystem::path(folder_).filename().string() +
                   "/rank0.state"}) {
    const auto second = StateLock::Take(spelled);
    EXPECT_EQ(second.status(),
              absl::FailedPreconditionError(absl::StrCat(
                  "state file \"", spelled,
                  "\" is held by another receiver of this process, ", getpid(),
                  "; give each rank a file of its own, or close that one "
                  "first")));
  }
  // The refusals have not given up what the first holds.
  Child other([&] { return !StateLock::Take(path_).ok(); });
  EXPECT_TRUE(StateLock::Take(folder_ + "/rank1.state").ok());
  first->reset();
  EXPECT_TRUE(StateLock::Take(path_).ok());
}

TEST_F(StateLockTest, AProcessThatLivesIsNamedAndOneThatWasKilledIsNot) {
  Child holder([&] { return StateLock::Take(path_)->release() != nullptr; });
  const auto refused = StateLock::Take(path_);
  EXPECT_EQ(refused.status(),
            absl::FailedPreconditionError(absl::StrCat(
                "state file \"", path_, "\" is held by process ", holder.pid(),
                "; give each rank a file of its own, or end that one first")));
  holder.Kill();
  const auto taken = StateLock::Take(path_);
  EXPECT_TRUE(taken.ok()) << taken.status();
}

// An engine's helper processes outlive it at times.
TEST_F(StateLockTest, AForkThatOutlivesTheHolderDoesNotHoldIt) {
  auto lock = StateLock::Take(path_);
  ASSERT_TRUE(lock.ok()) << lock.status();
  // It has inherited all of it, the open file too.
  Child fork([&] {
    const auto refused = StateLock::Take(path_);
    return refused.status().message() ==
           absl::StrCat("state file \"", path_, "\" is held by process ",
                        getppid(),
                        "; give each rank a file of its own, or end that "
                        "one first");
  });
  lock->reset();
  EXPECT_TRUE(StateLock::Take(path_).ok());
}

TEST_F(StateLockTest, AFileThatADeadReceiverLeftIsFree) {
  std::ofstream(path_) << "state";
  std::ofstream(path_ + ".lock") << "";
  EXPECT_TRUE(StateLock::Take(path_).ok());
  EXPECT_TRUE(std::filesystem::exists(path_ + ".lock"));
}

TEST_F(StateLockTest, AFolderThatIsNotThereIsNamed) {
  const auto refused = StateLock::Take(folder_ + "/none/rank0.state");
  EXPECT_TRUE(absl::IsNotFound(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr(folder_ + "/none/rank0.state.lock"));
}

}  // namespace
}  // namespace weft::session
