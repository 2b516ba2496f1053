#include "weft/transport/ucx/ucx_wire.h"

#include <rapidcheck.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "weft/transport/ucx/ucx_gather_internal.h"

namespace weft::transport::ucx {
namespace {

using Kind = Request::Kind;

TEST(UcxWireTest, RequestsRoundTripAndNoPrefixDecodes) {
  Request request{.client = 0x1122334455667788,
                  .id = 9,
                  .version = 3,
                  .instance = 77,
                  .reply_address = std::string("\0addr", 5),
                  .slot = 5,
                  .generation = 6,
                  .pieces = {.offset_bytes = 100,
                             .modes = {{3, -1000}, {7, 64}},
                             .piece_bytes = 32}};
  for (const Kind kind :
       {Kind::kHello, Kind::kImport, Kind::kGather, Kind::kPut, Kind::kBye}) {
    request.kind = kind;
    const std::string bytes = Encode(request);
    const auto decoded = DecodeRequest(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->kind, kind);
    EXPECT_EQ(decoded->client, request.client);
    EXPECT_EQ(decoded->id, request.id);
    if (kind == Kind::kHello) {
      EXPECT_EQ(decoded->version, request.version);
      EXPECT_EQ(decoded->instance, request.instance);
      EXPECT_EQ(decoded->reply_address, request.reply_address);
    } else if (kind != Kind::kBye) {
      EXPECT_EQ(decoded->slot, request.slot);
      EXPECT_EQ(decoded->generation, request.generation);
    }
    if (kind == Kind::kGather || kind == Kind::kPut) {
      EXPECT_EQ(decoded->pieces.offset_bytes, 100);
      EXPECT_EQ(decoded->pieces.piece_bytes, 32);
      ASSERT_EQ(decoded->pieces.modes.size(), 2u);
      EXPECT_EQ(decoded->pieces.modes[0].extent, 3);
      EXPECT_EQ(decoded->pieces.modes[0].stride_bytes, -1000);
      EXPECT_EQ(decoded->pieces.modes[1].stride_bytes, 64);
    }
    for (size_t kept = 0; kept < bytes.size(); ++kept) {
      EXPECT_FALSE(DecodeRequest(bytes.substr(0, kept)).ok());
    }
    EXPECT_FALSE(DecodeRequest(bytes + "x").ok());
  }
}

TEST(UcxWireTest, RepliesAndHeadersRoundTrip) {
  const Reply reply{.id = 4,
                    .status = absl::NotFoundError("no such region"),
                    .size_bytes = 12};
  const auto decoded = DecodeReply(Encode(reply));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->kind, Reply::Kind::kAnswer);
  EXPECT_EQ(decoded->id, 4u);
  EXPECT_EQ(decoded->status, reply.status);
  EXPECT_EQ(decoded->size_bytes, 12);
  EXPECT_FALSE(DecodeReply(Encode(reply) + "x").ok());

  const auto header =
      DecodeDataHeader(Encode(DataHeader{.id = 8, .packed_offset_bytes = 99}));
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->id, 8u);
  EXPECT_EQ(header->packed_offset_bytes, 99);
  EXPECT_FALSE(DecodeDataHeader("short").ok());
}

TEST(UcxWireTest, RandomBytesNeverDecodeToMoreThanTheyHold) {
  ASSERT_TRUE(rc::check("decoders survive any bytes", [] {
    auto bytes = *rc::gen::container<std::string>(rc::gen::arbitrary<char>());
    if (!bytes.empty()) bytes[0] = static_cast<char>(*rc::gen::inRange(0, 7));
    const auto request = DecodeRequest(bytes);
    if (request.ok()) RC_ASSERT(Encode(*request) == bytes);
    const auto reply = DecodeReply(bytes);
    if (reply.ok()) RC_ASSERT(reply->status.message().size() <= bytes.size());
  }));
}

// What a client says is checked here again, whatever it checked itself.
TEST(GatherSenderTest, RefusesWhatItsRegionsDoNotHold) {
  RegionTable regions;
  std::vector<std::byte> memory(1000);
  const RegisteredRegion region = regions.Add(absl::MakeSpan(memory), nullptr);
  DeviceCopier copier(nullptr);
  GatherSender sender(regions, copier, /*chunk_bytes=*/4096);
  const auto add = [&](uint64_t generation, StridedPieces pieces) {
    return sender
        .Add({.id = 1,
              .slot = region.slot,
              .generation = generation,
              .pieces = std::move(pieces)})
        .code();
  };
  using Code = absl::StatusCode;
  EXPECT_EQ(add(region.generation + 1, {.piece_bytes = 10}), Code::kNotFound);
  EXPECT_EQ(add(region.generation, {.offset_bytes = 991, .piece_bytes = 10}),
            Code::kOutOfRange);
  EXPECT_EQ(add(region.generation,
                {.modes = {{INT64_MAX, 1}, {INT64_MAX, 1}}, .piece_bytes = 1}),
            Code::kOutOfRange);
  EXPECT_EQ(add(region.generation, {.modes = {{-3, 1}}, .piece_bytes = 1}),
            Code::kInvalidArgument);
  EXPECT_EQ(add(region.generation, {.piece_bytes = 0}), Code::kInvalidArgument);
  EXPECT_EQ(add(region.generation, {.offset_bytes = 990, .piece_bytes = 10}),
            Code::kOk);
}

}  // namespace
}  // namespace weft::transport::ucx
