#include "weft/catalog/version_queue.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace weft::catalog {
namespace {

VersionRecord Record(uint64_t step, VersionState state) {
  VersionRecord record;
  record.version = {.run_id = "run", .epoch = 0, .step = step};
  record.state = state;
  return record;
}

base::Deadline Passed() {
  return base::Deadline::At(base::Deadline::Clock::time_point());
}

std::vector<VersionRecord> Drain(VersionQueue& queue) {
  std::vector<VersionRecord> records;
  for (auto next = queue.Next(Passed()); next.ok();
       next = queue.Next(Passed())) {
    records.push_back(*next);
  }
  return records;
}

TEST(VersionQueueTest, ANewerRecordReplacesTheOlderAndGoesToTheEnd) {
  VersionQueue queue;
  queue.Push(Record(1, VersionState::kStaging));
  queue.Push(Record(2, VersionState::kStaging));
  queue.Push(Record(1, VersionState::kReady));
  const auto records = Drain(queue);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].version.step, 2u);
  EXPECT_EQ(records[1].version.step, 1u);
  EXPECT_EQ(records[1].state, VersionState::kReady);
}

TEST(VersionQueueTest, HoldsTheNewestOfThoseThatAreGone) {
  VersionQueue queue;
  queue.Push(Record(1'000'000, VersionState::kReady));
  for (uint64_t step = 0; step < 5000; ++step) {
    queue.Push(Record(step, VersionState::kReady));
    queue.Push(Record(step, VersionState::kGone));
  }
  const auto records = Drain(queue);
  ASSERT_EQ(records.size(), 1 + kGoneVersionsQueued);
  EXPECT_EQ(records[0].version.step, 1'000'000u);
  for (size_t i = 1; i <= kGoneVersionsQueued; ++i) {
    EXPECT_EQ(records[i].version.step, 4999 - kGoneVersionsQueued + i);
    EXPECT_EQ(records[i].state, VersionState::kGone);
  }
}

// A reader that fell behind was not told of a version that the model knew, once
// older ones had been told again and then forgotten.
TEST(VersionQueueTest, HoldsAllThatTheModelKnows) {
  VersionQueue queue;
  for (uint64_t step = 1; step <= kGoneVersionsKept; ++step) {
    queue.Push(Record(step, VersionState::kGone));
  }
  for (uint64_t step = 1; step < kGoneVersionsKept; ++step) {
    queue.Push(Record(step, VersionState::kGone));
  }
  // The model forgets one of the first as each of these goes.
  for (uint64_t step = kGoneVersionsKept + 1; step < 2 * kGoneVersionsKept;
       ++step) {
    queue.Push(Record(step, VersionState::kGone));
  }
  std::set<uint64_t> told;
  for (const VersionRecord& record : Drain(queue)) {
    told.insert(record.version.step);
  }
  for (uint64_t step = kGoneVersionsKept; step < 2 * kGoneVersionsKept;
       ++step) {
    EXPECT_TRUE(told.contains(step)) << step;
  }
}

// Beside a list of everything that was pushed.
TEST(VersionQueueTest, TellsTheLastOfEachVersionInOrder) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  VersionQueue queue;
  std::vector<VersionRecord> pushed;  // since the last read of each version
  for (int i = 0; i < 20000; ++i) {
    if (random() % 4 != 0) {
      const VersionRecord record =
          Record(random() % 10, static_cast<VersionState>(1 + random() % 4));
      queue.Push(record);
      std::erase_if(pushed, [&](const VersionRecord& old) {
        return old.version == record.version;
      });
      pushed.push_back(record);
      continue;
    }
    const auto next = queue.Next(Passed());
    ASSERT_EQ(next.ok(), !pushed.empty());
    if (!next.ok()) continue;
    ASSERT_EQ(next->version, pushed.front().version);
    ASSERT_EQ(next->state, pushed.front().state);
    pushed.erase(pushed.begin());
  }
}

TEST(VersionQueueTest, EndsWithItsStatusAfterTheLastRecord) {
  VersionQueue queue;
  queue.Push(Record(1, VersionState::kReady));
  queue.Close(absl::UnavailableError("first"));
  queue.Close(absl::InternalError("second"));
  EXPECT_TRUE(queue.Next(base::Deadline::Infinite()).ok());
  EXPECT_EQ(queue.Next(base::Deadline::Infinite()).status(),
            absl::UnavailableError("first"));
}

TEST(VersionQueueTest, CancelComesBeforeRecords) {
  VersionQueue queue;
  queue.Push(Record(1, VersionState::kReady));
  queue.Cancel();
  EXPECT_EQ(queue.Next(base::Deadline::Infinite()).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(VersionQueueTest, PushEndsAWait) {
  VersionQueue queue;
  absl::StatusOr<VersionRecord> got = absl::UnknownError("");
  std::thread reader(
      [&] { got = queue.Next(base::Deadline::After(std::chrono::hours(1))); });
  queue.Push(Record(3, VersionState::kReady));
  reader.join();
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->version.step, 3u);
}

TEST(VersionQueueTest, NoWakeAfterItWasTaken) {
  // The wake counts in memory that ends with the scope: a late call would be
  // caught by the sanitizers, and by the count.
  VersionQueue queue;
  std::thread waker([&] {
    for (int i = 0; i < 20000; ++i) queue.Wake();
  });
  for (int i = 0; i < 200; ++i) {
    int wakes = 0;
    queue.SetWake([&wakes] { ++wakes; });
    queue.SetWake(nullptr);
    EXPECT_GE(wakes, 1);
    wakes = -1'000'000;
  }
  waker.join();
}

}  // namespace
}  // namespace weft::catalog
