#include <gtest/gtest.h>

#include "weft/session/bound_internal.h"

namespace weft::session {
namespace {

// 1024 threads, as many as a command may be given, once took 128 GiB to tell
// how fast memory is.
TEST(BoundTest, MeasuringTakesLimitedMemoryWhateverTheThreads) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  for (const int num_threads : {1, 2, 8}) {
    EXPECT_EQ(CopyBytesOfAThread(num_threads), 64 * kMiB) << num_threads;
  }
  for (const int num_threads : {9, 64, 1024}) {
    const int64_t bytes = CopyBytesOfAThread(num_threads) * num_threads;
    EXPECT_LE(bytes, 512 * kMiB) << num_threads;
    EXPECT_GT(bytes, 511 * kMiB) << num_threads;
  }
}

}  // namespace
}  // namespace weft::session
