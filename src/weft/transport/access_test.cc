#include "weft/transport/access.h"

#include <rapidcheck.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/transport/region_key.h"
#include "weft/transport/region_table.h"

namespace weft::transport {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Offsets of all packed bytes, one by one, by counting the digits of the piece
// number: the oracle for everything that walks pieces.
std::vector<int64_t> ByteOffsets(const StridedPieces& pieces) {
  std::vector<int64_t> starts{pieces.offset_bytes};
  for (const StridedPieces::Mode& mode : pieces.modes) {
    std::vector<int64_t> next;
    for (const int64_t start : starts) {
      for (int64_t i = 0; i < mode.extent; ++i) {
        next.push_back(start + i * mode.stride_bytes);
      }
    }
    starts = next;
  }
  std::vector<int64_t> offsets;
  for (const int64_t start : starts) {
    for (int64_t b = 0; b < pieces.piece_bytes; ++b) {
      offsets.push_back(start + b);
    }
  }
  return offsets;
}

StridedPieces RandomPieces() {
  StridedPieces pieces;
  const int rank = *rc::gen::inRange(0, 4);
  for (int i = 0; i < rank; ++i) {
    pieces.modes.push_back({*rc::gen::inRange<int64_t>(0, 6),
                            *rc::gen::inRange<int64_t>(-90, 90)});
  }
  pieces.piece_bytes = *rc::gen::element<int64_t>(0, 1, 2, 3, 4, 7, 8, 16, 31,
                                                  32, 64, 65, 128, 256, 512);
  pieces.offset_bytes = *rc::gen::inRange<int64_t>(-50, 600);
  // A stride equal to the piece is the packed case, rare by chance.
  if (rank > 0 && *rc::gen::arbitrary<bool>()) {
    pieces.modes.back().stride_bytes = pieces.piece_bytes;
  }
  return pieces;
}

TEST(StridedPiecesTest, SizesMatchTheOracle) {
  ASSERT_TRUE(rc::check("sizes = counted bytes", [] {
    const StridedPieces pieces = RandomPieces();
    const std::vector<int64_t> offsets = ByteOffsets(pieces);
    RC_ASSERT(pieces.packed_bytes() == static_cast<int64_t>(offsets.size()));
    const int64_t end =
        offsets.empty() ? pieces.offset_bytes
                        : *std::max_element(offsets.begin(), offsets.end()) + 1;
    RC_ASSERT(pieces.end_offset_bytes() == end);
  }));
}

TEST(StridedPiecesTest, CheckAcceptsExactlyWhatLiesInside) {
  ASSERT_TRUE(rc::check("OK <=> all offsets inside", [] {
    const StridedPieces pieces = RandomPieces();
    const std::vector<int64_t> offsets = ByteOffsets(pieces);
    const int64_t region_bytes = *rc::gen::inRange<int64_t>(0, 1200);
    bool inside = true;
    for (const int64_t offset : offsets) {
      inside = inside && offset >= 0 && offset < region_bytes;
    }
    const auto local_bytes = static_cast<int64_t>(offsets.size());
    const absl::Status status =
        CheckPieces("peer", pieces, region_bytes, local_bytes);
    RC_ASSERT(status.ok() == inside);
    if (!inside) RC_ASSERT(absl::IsOutOfRange(status));
    RC_ASSERT(absl::IsInvalidArgument(
        CheckPieces("peer", pieces, region_bytes, local_bytes + 1)));
  }));
}

TEST(StridedPiecesTest, PackAndCursorMatchTheOracleOnAnyRange) {
  ASSERT_TRUE(rc::check("packed range = bytes one by one", [] {
    StridedPieces pieces = RandomPieces();
    std::vector<std::byte> region(8192);
    for (size_t i = 0; i < region.size(); ++i) {
      region[i] = std::byte(static_cast<uint8_t>(i * 131 + i / 251));
    }
    pieces.offset_bytes += 2000;  // room for negative strides
    const std::vector<int64_t> offsets = ByteOffsets(pieces);
    const auto total = static_cast<int64_t>(offsets.size());
    const int64_t begin = *rc::gen::inRange<int64_t>(0, total + 1);
    const int64_t bytes = *rc::gen::inRange<int64_t>(0, total - begin + 1);

    std::vector<std::byte> packed(static_cast<size_t>(bytes));
    if (bytes > 0) {
      PackRange(region.data(), pieces, begin, absl::MakeSpan(packed));
    }
    for (int64_t i = 0; i < bytes; ++i) {
      RC_ASSERT(packed[i] == region[offsets[begin + i]]);
    }
    const int64_t max_bytes = *rc::gen::inRange<int64_t>(1, 300);
    PieceCursor cursor(pieces, begin);
    std::vector<int64_t> walked;
    while (!cursor.done()) {
      const PieceCursor::Stretch stretch = cursor.Next(max_bytes);
      RC_ASSERT(stretch.bytes > 0 && stretch.bytes <= max_bytes);
      for (int64_t b = 0; b < stretch.bytes; ++b) {
        walked.push_back(stretch.offset_bytes + b);
      }
    }
    RC_ASSERT(walked ==
              std::vector<int64_t>(offsets.begin() + begin, offsets.end()));
  }));
}

TEST(StridedPiecesTest, RowsCoverThePiecesInOrder) {
  ASSERT_TRUE(rc::check("rows and stretches = bytes one by one", [] {
    const StridedPieces pieces = RandomPieces();
    const std::vector<int64_t> offsets = ByteOffsets(pieces);
    const int64_t max_span_bytes = *rc::gen::inRange<int64_t>(1, 1500);
    const auto total = static_cast<int64_t>(offsets.size());
    const int64_t begin = *rc::gen::inRange<int64_t>(0, total + 1);
    PieceCursor cursor(pieces, begin);
    std::vector<int64_t> walked;
    while (!cursor.done()) {
      const PieceCursor::Row row = cursor.NextRow(max_span_bytes);
      if (row.count == 0) {
        const PieceCursor::Stretch stretch = cursor.Next(max_span_bytes);
        for (int64_t b = 0; b < stretch.bytes; ++b) {
          walked.push_back(stretch.offset_bytes + b);
        }
        continue;
      }
      RC_ASSERT((row.count - 1) * row.stride_bytes + pieces.piece_bytes <=
                max_span_bytes);
      for (int64_t i = 0; i < row.count; ++i) {
        for (int64_t b = 0; b < pieces.piece_bytes; ++b) {
          walked.push_back(row.offset_bytes + i * row.stride_bytes + b);
        }
      }
    }
    RC_ASSERT(walked ==
              std::vector<int64_t>(offsets.begin() + begin, offsets.end()));
  }));
}

TEST(StridedPiecesTest, HostileNumbersAreRefusedNotWrapped) {
  const auto code = [](const StridedPieces& pieces, int64_t local_bytes) {
    return CheckPieces("peer", pieces, 1 << 20, local_bytes).code();
  };
  using Code = absl::StatusCode;
  EXPECT_EQ(code({.modes = {{kMax, 1}, {3, 1}}, .piece_bytes = 1}, 3),
            Code::kOutOfRange);
  EXPECT_EQ(code({.modes = {{kMax, 0}}, .piece_bytes = 2}, 0),
            Code::kOutOfRange);
  EXPECT_EQ(code({.modes = {{3, kMax}}, .piece_bytes = 1}, 3),
            Code::kOutOfRange);
  EXPECT_EQ(
      code({.offset_bytes = kMax, .modes = {{2, 1}}, .piece_bytes = 1}, 2),
      Code::kOutOfRange);
  EXPECT_EQ(
      code({.offset_bytes = -kMax, .modes = {{2, -kMax}}, .piece_bytes = 1}, 2),
      Code::kOutOfRange);
  EXPECT_EQ(code({.offset_bytes = kMax, .piece_bytes = 1}, 1),
            Code::kOutOfRange);
  EXPECT_EQ(code({.modes = {{-1, 1}}, .piece_bytes = 1}, 0),
            Code::kInvalidArgument);
  EXPECT_EQ(code({.piece_bytes = -1}, -1), Code::kInvalidArgument);
  // An empty gather reads nothing, wherever it points.
  EXPECT_EQ(code({.offset_bytes = kMax,
                  .modes = {{kMax, kMax}, {0, 1}},
                  .piece_bytes = 8},
                 0),
            Code::kOk);
  const StridedPieces huge{.modes = {{kMax, 1}, {3, 1}}, .piece_bytes = 4};
  EXPECT_EQ(huge.num_pieces(), kMax);
  EXPECT_EQ(huge.packed_bytes(), kMax);
  EXPECT_EQ(huge.end_offset_bytes(), kMax);
}

TEST(CheckRangeTest, NamesPeerAndBothSizes) {
  EXPECT_TRUE(CheckRange("p", 0, 10, 10).ok());
  EXPECT_TRUE(CheckRange("p", 10, 0, 10).ok());
  for (const auto& [offset, bytes] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 10}, {-1, 2}, {11, 0}, {5, -1}, {kMax, 1}, {1, kMax}}) {
    EXPECT_TRUE(absl::IsOutOfRange(CheckRange("p", offset, bytes, 10)))
        << offset << " " << bytes;
  }
  EXPECT_THAT(
      std::string(CheckRange("publisher rank 3", 4, 8, 10).message()),
      testing::AllOf(testing::HasSubstr("publisher rank 3"),
                     testing::HasSubstr("[4,12)"), testing::HasSubstr("10")));
}

TEST(CheckRegistrationTest, MemoryMustLieInsideItsBuffer) {
  auto buffer = memory::Buffer::Allocate(memory::MemoryKind::kHost, 100);
  ASSERT_TRUE(buffer.ok());
  std::byte* base = (*buffer)->data();
  EXPECT_TRUE(CheckRegistration({base, 100}, buffer->get(), false).ok());
  EXPECT_TRUE(CheckRegistration({base + 50, 50}, buffer->get(), false).ok());
  EXPECT_FALSE(CheckRegistration({base + 50, 51}, buffer->get(), true).ok());
  EXPECT_FALSE(CheckRegistration({base - 1, 2}, buffer->get(), true).ok());
  EXPECT_TRUE(CheckRegistration({base, 100}, nullptr, true).ok());
  EXPECT_FALSE(CheckRegistration({base, 100}, nullptr, false).ok());
}

TEST(RegionKeyTest, RoundTripsAndRefusesEveryDamage) {
  const RegionKey key{.instance = 0x1122334455667788,
                      .slot = 3,
                      .generation = 9,
                      .size_bytes = 12345,
                      .mappable = true,
                      .native = std::string("\0rkey\xff", 6)};
  const std::string bytes = EncodeKey("leaf", key);
  const auto decoded = DecodeKey("leaf", bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->instance, key.instance);
  EXPECT_EQ(decoded->slot, key.slot);
  EXPECT_EQ(decoded->generation, key.generation);
  EXPECT_EQ(decoded->size_bytes, key.size_bytes);
  EXPECT_EQ(decoded->mappable, key.mappable);
  EXPECT_EQ(decoded->native, key.native);

  for (size_t kept = 0; kept < bytes.size(); ++kept) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        DecodeKey("leaf", bytes.substr(0, kept)).status()));
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_TRUE(absl::IsInvalidArgument(DecodeKey("leaf", damaged).status()));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(DecodeKey("leaf", bytes + "x").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(DecodeKey("other", bytes).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(Unseal("leaf", "address", bytes).status()));
  RegionKey negative = key;
  negative.size_bytes = -1;
  EXPECT_TRUE(absl::IsInvalidArgument(
      DecodeKey("leaf", EncodeKey("leaf", negative)).status()));
}

TEST(RegionTableTest, AReusedSlotRefusesTheOldGeneration) {
  RegionTable table;
  std::vector<std::byte> memory(10);
  const auto visit = [&](const RegisteredRegion& region) {
    return table.Visit(
        region.slot, region.generation,
        [](const RegisteredRegion&) { return absl::OkStatus(); });
  };
  const RegisteredRegion first = table.Add(absl::MakeSpan(memory), nullptr);
  const RegisteredRegion other = table.Add(absl::MakeSpan(memory), nullptr);
  EXPECT_NE(first.slot, other.slot);
  EXPECT_TRUE(visit(first).ok());
  table.Remove(first);
  EXPECT_TRUE(absl::IsNotFound(visit(first)));
  const RegisteredRegion second = table.Add(absl::MakeSpan(memory), nullptr);
  EXPECT_EQ(second.slot, first.slot);
  EXPECT_TRUE(absl::IsNotFound(visit(first)));
  EXPECT_TRUE(visit(second).ok());
  EXPECT_TRUE(visit(other).ok());
  EXPECT_TRUE(absl::IsNotFound(visit({.slot = 99, .generation = 1})));
  table.Remove(second);
  EXPECT_TRUE(absl::IsNotFound(visit({.slot = second.slot, .generation = 0})));
}

}  // namespace
}  // namespace weft::transport
