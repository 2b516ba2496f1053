#include "weft/transport/nixl/nixl_wire.h"

#include <random>

#include "gtest/gtest.h"

namespace weft::transport::nixl {
namespace {

using Kind = Message::Kind;

Message Sample(Kind kind) {
  Message message{.kind = kind, .client = 7, .id = 9};
  message.instance = 11;
  message.agent = "weft-1";
  message.metadata = std::string("a\0b", 3);
  message.slot = 3;
  message.generation = 5;
  message.pieces = {
      .offset_bytes = 13, .modes = {{4, -100}, {2, 50}}, .piece_bytes = 17};
  message.status = absl::NotFoundError("gone");
  message.size_bytes = 19;
  message.address = 23;
  message.chunk = 2;
  message.packed_offset_bytes = 29;
  return message;
}

constexpr Kind kAll[] = {
    Kind::kHello,  Kind::kImport, Kind::kGather, Kind::kTaken,  Kind::kBye,
    Kind::kAnswer, Kind::kRing,   Kind::kChunk,  Kind::kClosed, Kind::kPing};

TEST(NixlWire, ComesBackAsItWas) {
  for (const Kind kind : kAll) {
    const auto read = Decode(Encode(Sample(kind)));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->kind, kind);
    EXPECT_EQ(read->client, 7);
    EXPECT_EQ(read->id, 9);
  }
  const Message hello = *Decode(Encode(Sample(Kind::kHello)));
  EXPECT_EQ(hello.version, kWireVersion);
  EXPECT_EQ(hello.instance, 11);
  EXPECT_EQ(hello.agent, "weft-1");
  EXPECT_EQ(hello.metadata, std::string("a\0b", 3));
  const Message gather = *Decode(Encode(Sample(Kind::kGather)));
  EXPECT_EQ(gather.slot, 3);
  EXPECT_EQ(gather.generation, 5);
  EXPECT_EQ(gather.pieces.offset_bytes, 13);
  EXPECT_EQ(gather.pieces.piece_bytes, 17);
  ASSERT_EQ(gather.pieces.modes.size(), 2u);
  EXPECT_EQ(gather.pieces.modes[0].stride_bytes, -100);
  EXPECT_EQ(gather.pieces.modes[1].extent, 2);
  const Message answer = *Decode(Encode(Sample(Kind::kAnswer)));
  EXPECT_EQ(answer.status, absl::NotFoundError("gone"));
  EXPECT_EQ(answer.size_bytes, 19);
  const Message ring = *Decode(Encode(Sample(Kind::kRing)));
  EXPECT_EQ(ring.address, 23);
  const Message chunk = *Decode(Encode(Sample(Kind::kChunk)));
  EXPECT_EQ(chunk.chunk, 2);
  EXPECT_EQ(chunk.packed_offset_bytes, 29);
}

TEST(NixlWire, RefusesDamagedAndForeignBytes) {
  for (const Kind kind : kAll) {
    const std::string bytes = Encode(Sample(kind));
    for (size_t kept = 0; kept < bytes.size(); ++kept) {
      EXPECT_FALSE(Decode(bytes.substr(0, kept)).ok()) << kept;
    }
    EXPECT_FALSE(Decode(bytes + "x").ok());
  }
  EXPECT_FALSE(Decode("a notification of somebody else's").ok());
  std::string unknown = Encode(Sample(Kind::kPing));
  unknown[4] = 77;
  EXPECT_FALSE(Decode(unknown).ok());
}

TEST(NixlWire, RandomBytesDoNoHarm) {
  const auto seed =
      static_cast<unsigned>(testing::UnitTest::GetInstance()->random_seed());
  SCOPED_TRACE(testing::Message() << "--gtest_random_seed=" << seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = Encode(Sample(kAll[random() % 10]));
    for (int change = 0; change < 3; ++change) {
      bytes[5 + random() % (bytes.size() - 5)] = static_cast<char>(random());
    }
    (void)Decode(bytes);
  }
}

}  // namespace
}  // namespace weft::transport::nixl
