#include "weft/memory/buffer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/memory/shared_mapping.h"

namespace weft::memory {
namespace {

class BufferTest : public testing::TestWithParam<MemoryKind> {};

TEST_P(BufferTest, IsZeroPageAlignedAndWritableToTheLastByte) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  for (const int64_t bytes :
       {int64_t{0}, int64_t{1}, page - 1, page, page + 1, int64_t{3'000'001}}) {
    auto buffer = Buffer::Allocate(GetParam(), bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ((*buffer)->kind(), GetParam());
    EXPECT_EQ((*buffer)->size_bytes(), bytes);
    EXPECT_EQ((*buffer)->span().size(), static_cast<size_t>(bytes));
    ASSERT_NE((*buffer)->data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % page, 0u);
    for (const std::byte value : (*buffer)->span()) {
      ASSERT_EQ(value, std::byte{0});
    }
    std::memset((*buffer)->data(), 0xa5, static_cast<size_t>(bytes));
  }
}

TEST_P(BufferTest, RefusesWhatCannotBe) {
  EXPECT_EQ(Buffer::Allocate(GetParam(), -1).status().code(),
            absl::StatusCode::kInvalidArgument);
  for (const int64_t bytes :
       {std::numeric_limits<int64_t>::max(), int64_t{1} << 60}) {
    const absl::Status status = Buffer::Allocate(GetParam(), bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(std::to_string(bytes)));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, BufferTest,
                         testing::Values(MemoryKind::kHost,
                                         MemoryKind::kShared));

TEST(BufferFileTest, OnlySharedHasAFile) {
  auto host = Buffer::Allocate(MemoryKind::kHost, 100);
  ASSERT_TRUE(host.ok());
  EXPECT_EQ((*host)->fd(), -1);
  auto shared = Buffer::Allocate(MemoryKind::kShared, 5000);
  ASSERT_TRUE(shared.ok());
  EXPECT_GE((*shared)->fd(), 0);
}

TEST(SharedMappingTest, SeesWritesBothWaysAndOutlivesTheBuffer) {
  auto buffer = Buffer::Allocate(MemoryKind::kShared, 5000);
  ASSERT_TRUE(buffer.ok());
  auto mapping = SharedMapping::Map((*buffer)->fd());
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_GE((*mapping)->size_bytes(), 5000);
  (*buffer)->data()[4999] = std::byte{7};
  EXPECT_EQ((*mapping)->data()[4999], std::byte{7});
  (*mapping)->data()[0] = std::byte{9};
  EXPECT_EQ((*buffer)->data()[0], std::byte{9});
  buffer->reset();
  EXPECT_EQ((*mapping)->data()[4999], std::byte{7});
}

TEST(SharedMappingTest, RefusesWhatIsNoFile) {
  EXPECT_EQ(SharedMapping::Map(-1).status().code(),
            absl::StatusCode::kInvalidArgument);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(SharedMapping::Map(ends[0]).status().code(),
            absl::StatusCode::kInvalidArgument);
  close(ends[0]);
  close(ends[1]);
}

TEST(BufferFileTest, DestructionClosesTheFile) {
  auto shared = Buffer::Allocate(MemoryKind::kShared, 10);
  ASSERT_TRUE(shared.ok());
  const int fd = (*shared)->fd();
  struct stat info;
  ASSERT_EQ(fstat(fd, &info), 0);
  shared->reset();
  EXPECT_EQ(fstat(fd, &info), -1);
}

}  // namespace
}  // namespace weft::memory
