#include "weft/base/byte_codec.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

namespace weft::base {
namespace {

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(
        std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

// Format bytes are frozen: manifests and digests depend on them.
TEST(ByteCodecTest, GoldenBytes) {
  ByteWriter writer;
  writer.U8(0xab);
  writer.U32(0x01020304);
  writer.U64(0x1122334455667788);
  writer.I64(-2);
  writer.Bytes("ok");
  writer.Bytes("");
  const std::string expected = FromHex(
      "ab"
      "04030201"
      "8877665544332211"
      "feffffffffffffff"
      "02000000"
      "6f6b"
      "00000000");
  EXPECT_EQ(writer.bytes(), expected);
  EXPECT_EQ(writer.Take(), expected);
}

using Field = std::variant<uint8_t, uint32_t, uint64_t, int64_t, std::string>;

Field AnyField() {
  switch (*rc::gen::inRange(0, 5)) {
    case 0:
      return *rc::gen::arbitrary<uint8_t>();
    case 1:
      return *rc::gen::arbitrary<uint32_t>();
    case 2:
      return *rc::gen::arbitrary<uint64_t>();
    case 3:
      return *rc::gen::arbitrary<int64_t>();
    default:
      return *rc::gen::arbitrary<std::string>();
  }
}

std::string Encode(const std::vector<Field>& fields) {
  ByteWriter writer;
  for (const Field& field : fields) {
    if (const auto* u8 = std::get_if<uint8_t>(&field)) writer.U8(*u8);
    if (const auto* u32 = std::get_if<uint32_t>(&field)) writer.U32(*u32);
    if (const auto* u64 = std::get_if<uint64_t>(&field)) writer.U64(*u64);
    if (const auto* i64 = std::get_if<int64_t>(&field)) writer.I64(*i64);
    if (const auto* text = std::get_if<std::string>(&field)) {
      writer.Bytes(*text);
    }
  }
  return writer.Take();
}

// Reads a field of the same kind as `like`.
Field ReadLike(const Field& like, ByteReader& reader) {
  switch (like.index()) {
    case 0:
      return reader.U8();
    case 1:
      return reader.U32();
    case 2:
      return reader.U64();
    case 3:
      return reader.I64();
    default:
      return std::string(reader.Bytes());
  }
}

bool IsZeroOrEmpty(const Field& field) {
  return std::visit(
      [](const auto& value) {
        return value == std::decay_t<decltype(value)>{};
      },
      field);
}

TEST(ByteCodecTest, ReadsWhatWasWritten) {
  ASSERT_TRUE(rc::check("round trip, then cut anywhere", [] {
    std::vector<Field> fields(*rc::gen::inRange<std::size_t>(0, 12));
    for (Field& field : fields) field = AnyField();
    const std::string bytes = Encode(fields);

    ByteReader reader(bytes);
    for (const Field& field : fields) {
      RC_ASSERT(ReadLike(field, reader) == field);
    }
    RC_ASSERT(reader.ok());
    RC_ASSERT(reader.remaining() == 0u);
    RC_ASSERT(reader.Finish("record").ok());

    if (bytes.empty()) return;
    // Cut short: some prefix reads as written, all after it as zero.
    const auto cut = *rc::gen::inRange<std::size_t>(0, bytes.size());
    ByteReader short_reader(std::string_view(bytes).substr(0, cut));
    for (const Field& field : fields) {
      const Field read = ReadLike(field, short_reader);
      RC_ASSERT((short_reader.ok() ? read == field : IsZeroOrEmpty(read)));
    }
    RC_ASSERT(!short_reader.ok());
    RC_ASSERT(short_reader.Finish("record").code() ==
              absl::StatusCode::kDataLoss);
  }));
}

TEST(ByteCodecTest, NothingReadsAfterAFailure) {
  ByteReader reader("\x01\x02\x03");
  EXPECT_EQ(reader.U64(), 0u);
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.U8(), 0);  // a byte is there, but the position is lost
  EXPECT_EQ(reader.Bytes(), "");
  EXPECT_EQ(reader.Count(1), 0u);
  EXPECT_EQ(reader.Finish("manifest").code(), absl::StatusCode::kDataLoss);
}

TEST(ByteCodecTest, LeftoverBytesAreDataLoss) {
  ByteReader reader("abc");
  reader.U8();
  EXPECT_TRUE(reader.ok());
  const absl::Status status = reader.Finish("manifest");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(std::string(status.message()), "manifest has 2 bytes too many");
}

TEST(ByteCodecTest, LengthsAreNotTrusted) {
  for (const uint32_t claimed :
       {uint32_t{4}, std::numeric_limits<uint32_t>::max()}) {
    ByteWriter writer;
    writer.U32(claimed);
    const std::string bytes = writer.Take() + "abc";
    ByteReader text_reader(bytes);
    EXPECT_EQ(text_reader.Bytes(), "");
    EXPECT_FALSE(text_reader.ok());
    ByteReader count_reader(bytes);
    EXPECT_EQ(count_reader.Count(1), 0u);
    EXPECT_FALSE(count_reader.ok());
  }
}

TEST(ByteCodecTest, CountFitsTheRest) {
  ByteWriter writer;
  writer.U32(2);
  const std::string bytes = writer.Take() + std::string(17, 'x');
  EXPECT_EQ(ByteReader(bytes).Count(8), 2u);
  EXPECT_EQ(ByteReader(bytes).Count(1), 2u);
  ByteReader reader(bytes);
  EXPECT_EQ(reader.Count(9), 0u);
  EXPECT_FALSE(reader.ok());
}

TEST(ByteCodecTest, FailMarksAMalformedValue) {
  ByteReader reader("");
  EXPECT_TRUE(reader.Finish("record").ok());
  reader.Fail();
  EXPECT_EQ(reader.Finish("record").code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace weft::base
