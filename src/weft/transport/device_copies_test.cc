#include "weft/transport/device_copies.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "weft/memory/testing/fake_device.h"
#include "weft/transport/testing/pattern.h"

namespace weft::transport {
namespace {

constexpr int64_t kBytes = 400000;

// Packed byte `at` of `pieces` over the pattern, by taking its place apart.
std::byte PackedByte(const StridedPieces& pieces, int64_t at, uint64_t seed) {
  int64_t place = pieces.offset_bytes + at % pieces.piece_bytes;
  int64_t piece = at / pieces.piece_bytes;
  for (size_t mode = pieces.modes.size(); mode-- > 0;) {
    place +=
        piece % pieces.modes[mode].extent * pieces.modes[mode].stride_bytes;
    piece /= pieces.modes[mode].extent;
  }
  return PatternByte(seed, place);
}

TEST(DeviceCopies, PackAnyPartOfAnyPieces) {
  const auto seed =
      static_cast<unsigned>(testing::UnitTest::GetInstance()->random_seed());
  SCOPED_TRACE(testing::Message() << "--gtest_random_seed=" << seed);
  std::mt19937 random(seed);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  memory::FakeDeviceDriver driver(1);
  auto region = *memory::DeviceBuffer::Allocate(driver, 0, kBytes);
  FillPattern({region->data(), kBytes}, 5);
  DeviceCopier copier(&driver);
  EXPECT_EQ(copier.DeviceOf(region->data() + 9), 0);
  const std::byte on_host{};
  EXPECT_EQ(copier.DeviceOf(&on_host), memory::kHostMemory);
  for (int round = 0; round < 500; ++round) {
    StridedPieces pieces{.offset_bytes = pick(100000, 101000),
                         .piece_bytes = pick(1, 300)};
    for (int64_t mode = pick(0, 3); mode > 0; --mode) {
      pieces.modes.push_back({pick(1, 9), pick(-1000, 5000)});
    }
    const int64_t whole = pieces.packed_bytes();
    const int64_t first = pick(0, whole);
    std::vector<std::byte> packed(static_cast<size_t>(pick(0, whole - first)));
    ASSERT_EQ(
        copier.Pack(0, region->data(), pieces, first, absl::MakeSpan(packed)),
        absl::OkStatus());
    for (size_t i = 0; i < packed.size(); ++i) {
      ASSERT_EQ(packed[i],
                PackedByte(pieces, first + static_cast<int64_t>(i), 5))
          << "byte " << i << " from " << first << " in round " << round;
    }
  }
}

TEST(DeviceCopies, PackMoreThanTheScratchHolds) {
  constexpr int64_t kRows = 3000;
  constexpr int64_t kRowBytes = 1001;
  memory::FakeDeviceDriver driver(1);
  auto region =
      *memory::DeviceBuffer::Allocate(driver, 0, kRows * 2 * kRowBytes);
  FillPattern({region->data(), static_cast<size_t>(kRows * 2 * kRowBytes)}, 6);
  const StridedPieces pieces{.modes = {{kRows, 2 * kRowBytes}},
                             .piece_bytes = kRowBytes};
  std::vector<std::byte> packed(static_cast<size_t>(pieces.packed_bytes()));
  ASSERT_EQ(DeviceCopier(&driver).Pack(0, region->data(), pieces, 0,
                                       absl::MakeSpan(packed)),
            absl::OkStatus());
  for (int64_t row = 0; row < kRows; ++row) {
    ASSERT_EQ(FindMismatch(absl::MakeSpan(packed).subspan(
                               static_cast<size_t>(row * kRowBytes), kRowBytes),
                           6, row * 2 * kRowBytes),
              -1)
        << row;
  }
}

}  // namespace
}  // namespace weft::transport
