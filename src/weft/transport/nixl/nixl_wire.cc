#include "weft/transport/nixl/nixl_wire.h"

#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/pieces_codec.h"

namespace weft::transport::nixl {
namespace {

using Kind = Message::Kind;

// Other users of the same NIXL may send notifications of their own.
constexpr uint32_t kMagic = 0x77656674;  // "weft"

}  // namespace

bool IsForOwner(Kind kind) { return kind <= Kind::kBye; }

std::string Encode(const Message& message) {
  base::ByteWriter writer;
  writer.U32(kMagic);
  writer.U8(static_cast<uint8_t>(message.kind));
  writer.U64(message.client);
  writer.U64(message.id);
  switch (message.kind) {
    case Kind::kHello:
      writer.U32(message.version);
      writer.U64(message.instance);
      writer.Bytes(message.agent);
      writer.Bytes(message.metadata);
      break;
    case Kind::kGather:
      WritePieces(message.pieces, writer);
      [[fallthrough]];
    case Kind::kImport:
      writer.U64(message.slot);
      writer.U64(message.generation);
      break;
    case Kind::kAnswer: {
      writer.U32(static_cast<uint32_t>(message.status.raw_code()));
      const absl::string_view text = message.status.message();
      writer.Bytes(std::string_view(text.data(), text.size()));
      writer.I64(message.size_bytes);
      break;
    }
    case Kind::kRing:
      writer.Bytes(message.metadata);
      writer.U64(message.address);
      writer.U64(message.generation);
      writer.I64(message.size_bytes);
      writer.U8(message.memory_type);
      writer.U8(message.on_device ? 1 : 0);
      break;
    case Kind::kChunk:
      writer.I64(message.packed_offset_bytes);
      writer.I64(message.size_bytes);
      [[fallthrough]];
    case Kind::kTaken:
      writer.U64(message.chunk);
      writer.U8(message.on_device ? 1 : 0);
      break;
    case Kind::kBye:
    case Kind::kClosed:
    case Kind::kPing:
      break;
  }
  return writer.Take();
}

absl::StatusOr<Message> Decode(std::string_view bytes) {
  base::ByteReader reader(bytes);
  Message message;
  if (reader.U32() != kMagic) reader.Fail();
  message.kind = static_cast<Kind>(reader.U8());
  message.client = reader.U64();
  message.id = reader.U64();
  switch (message.kind) {
    case Kind::kHello:
      message.version = reader.U32();
      message.instance = reader.U64();
      message.agent = std::string(reader.Bytes());
      message.metadata = std::string(reader.Bytes());
      break;
    case Kind::kGather:
      message.pieces = ReadPieces(reader);
      [[fallthrough]];
    case Kind::kImport:
      message.slot = reader.U64();
      message.generation = reader.U64();
      break;
    case Kind::kAnswer: {
      const auto code = static_cast<absl::StatusCode>(reader.U32());
      message.status = absl::Status(code, std::string(reader.Bytes()));
      message.size_bytes = reader.I64();
      break;
    }
    case Kind::kRing:
      message.metadata = std::string(reader.Bytes());
      message.address = reader.U64();
      message.generation = reader.U64();
      message.size_bytes = reader.I64();
      message.memory_type = reader.U8();
      message.on_device = reader.U8() != 0;
      break;
    case Kind::kChunk:
      message.packed_offset_bytes = reader.I64();
      message.size_bytes = reader.I64();
      [[fallthrough]];
    case Kind::kTaken:
      message.chunk = reader.U64();
      message.on_device = reader.U8() != 0;
      break;
    case Kind::kBye:
    case Kind::kClosed:
    case Kind::kPing:
      break;
    default:
      reader.Fail();
  }
  WEFT_RETURN_IF_ERROR(reader.Finish("nixl message"));
  return message;
}

}  // namespace weft::transport::nixl
