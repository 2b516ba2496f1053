#include "weft/memory/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "weft/memory/opened_handles.h"
#include "weft/memory/testing/fake_device.h"

namespace weft::memory {
namespace {

using ::testing::HasSubstr;

TEST(ParseDevice, TakesOrdinalsAndNothingElse) {
  EXPECT_EQ(*ParseDevice("cuda"), 0);
  EXPECT_EQ(*ParseDevice("cuda:0"), 0);
  EXPECT_EQ(*ParseDevice("cuda:17"), 17);
  for (const char* text : {"", "cuda:", "cuda:-1", "cuda:x", "gpu:1", "cpu",
                           "cuda:1 2", "cuda:99999999999"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDevice(text).status())) << text;
  }
}

TEST(DeviceBuffer, StartsAsZerosAndFreesItself) {
  FakeDeviceDriver driver(2);
  const std::byte* address = nullptr;
  {
    const auto buffer = *DeviceBuffer::Allocate(driver, 1, 1000);
    address = buffer->data();
    for (int64_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(buffer->data()[i], std::byte{0});
    }
    EXPECT_EQ(driver.Find(address + 999)->device, 1);
  }
  EXPECT_TRUE(absl::IsNotFound(driver.Find(address).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(DeviceBuffer::Allocate(driver, 2, 10).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(DeviceBuffer::Allocate(driver, 0, -1).status()));
  EXPECT_NE((*DeviceBuffer::Allocate(driver, 0, 0))->data(), nullptr);
}

TEST(DeviceBuffer, TakesWholePages) {
  FakeDeviceDriver driver(1);
  for (const auto& [bytes, pages] :
       {std::pair<int64_t, int64_t>{kDevicePageBytes, 1},
        {kDevicePageBytes + 1, 2},
        {5 * kDevicePageBytes - 1, 5}}) {
    const auto buffer = *DeviceBuffer::Allocate(driver, 0, bytes);
    EXPECT_EQ(buffer->size_bytes(), bytes);
    EXPECT_EQ(driver.Find(buffer->data())->bytes, pages * kDevicePageBytes);
  }
}

class OpenedHandlesTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<OpenedAllocation>> Open(
      OpenedHandles& handles, int device, const DeviceBuffer& buffer,
      uint64_t exporter = 1) {
    const DeviceAllocation allocation = *driver_.Find(buffer.data());
    return handles.Open(device, {exporter, allocation.id}, allocation.bytes,
                        [&] {
                          ++fetched_;
                          return driver_.Export(allocation);
                        });
  }
  FakeDeviceDriver driver_{2};
  int fetched_ = 0;
};

TEST_F(OpenedHandlesTest, OpensOnceAndClosesWithTheLastUser) {
  const auto buffer = *DeviceBuffer::Allocate(driver_, 0, 5000);
  OpenedHandles handles(driver_);
  auto first = *Open(handles, 1, *buffer);
  auto second = *Open(handles, 1, *buffer);
  EXPECT_EQ(first, second);
  EXPECT_EQ(fetched_, 1);
  buffer->data()[4999] = std::byte{7};
  EXPECT_EQ(first->data()[4999], std::byte{7});
  EXPECT_EQ(handles.counts().open, 1);
  EXPECT_EQ(handles.counts().bytes, 5000);
  first.reset();
  EXPECT_EQ(driver_.num_open(), 1);
  second.reset();
  EXPECT_EQ(driver_.num_open(), 0);
  EXPECT_EQ(handles.counts().open, 0);
  EXPECT_EQ(handles.counts().opened, 1);
}

TEST_F(OpenedHandlesTest, OtherGpusEndpointsAndAllocationsAreApart) {
  auto buffer = *DeviceBuffer::Allocate(driver_, 0, 5000);
  OpenedHandles handles(driver_);
  const auto here = *Open(handles, 0, *buffer);
  const auto there = *Open(handles, 1, *buffer);
  const auto restarted = *Open(handles, 1, *buffer, 2);
  EXPECT_NE(here, there);
  EXPECT_NE(there, restarted);
  // Freed and allocated again: never the mapping of before.
  buffer.reset();
  buffer = *DeviceBuffer::Allocate(driver_, 0, 5000);
  EXPECT_NE(*Open(handles, 1, *buffer), there);
  EXPECT_EQ(handles.counts().open, 3);
}

TEST_F(OpenedHandlesTest, AThousandRefitsKeepTheCountsFlat) {
  const auto buffer = *DeviceBuffer::Allocate(driver_, 0, 5000);
  OpenedHandles handles(driver_);
  for (int refit = 0; refit < 1000; ++refit) {
    const auto open = *Open(handles, 1, *buffer);
    ASSERT_EQ(handles.counts().open, 1);
    ASSERT_EQ(driver_.num_open(), 1);
  }
  EXPECT_EQ(driver_.num_open(), 0);
}

TEST_F(OpenedHandlesTest, WhatCannotBeExportedIsNotOpened) {
  driver_.MakeNext(DeviceAllocationKind::kPool, /*exportable=*/false);
  const auto buffer = *DeviceBuffer::Allocate(driver_, 0, 100);
  OpenedHandles handles(driver_);
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(handles, 1, *buffer).status()));
  EXPECT_EQ(handles.counts().open, 0);
}

TEST(DeviceQueue, AWaitEndsAtItsDeadline) {
  FakeDeviceDriver driver(1);
  const auto queue = *driver.MakeQueue(0);
  driver.HoldPolls(0, 1 << 30);
  const absl::Status late = queue->Wait(
      base::Deadline::After(std::chrono::milliseconds(1)), "testing");
  EXPECT_TRUE(absl::IsDeadlineExceeded(late));
  EXPECT_THAT(std::string(late.message()), HasSubstr("testing"));
}

}  // namespace
}  // namespace weft::memory
