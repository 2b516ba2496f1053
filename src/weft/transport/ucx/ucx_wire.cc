#include "weft/transport/ucx/ucx_wire.h"

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/pieces_codec.h"

namespace weft::transport::ucx {

std::string Encode(const Request& request) {
  base::ByteWriter writer;
  writer.U8(static_cast<uint8_t>(request.kind));
  writer.U64(request.client);
  writer.U64(request.id);
  switch (request.kind) {
    case Request::Kind::kHello:
      writer.U32(request.version);
      writer.U64(request.instance);
      writer.Bytes(request.reply_address);
      break;
    case Request::Kind::kGather:
    case Request::Kind::kPut:
      WritePieces(request.pieces, writer);
      [[fallthrough]];
    case Request::Kind::kImport:
      writer.U64(request.slot);
      writer.U64(request.generation);
      break;
    case Request::Kind::kBye:
      break;
  }
  return writer.Take();
}

absl::StatusOr<Request> DecodeRequest(std::string_view bytes) {
  base::ByteReader reader(bytes);
  Request request;
  request.kind = static_cast<Request::Kind>(reader.U8());
  request.client = reader.U64();
  request.id = reader.U64();
  switch (request.kind) {
    case Request::Kind::kHello:
      request.version = reader.U32();
      request.instance = reader.U64();
      request.reply_address = std::string(reader.Bytes());
      break;
    case Request::Kind::kGather:
    case Request::Kind::kPut:
      request.pieces = ReadPieces(reader);
      [[fallthrough]];
    case Request::Kind::kImport:
      request.slot = reader.U64();
      request.generation = reader.U64();
      break;
    case Request::Kind::kBye:
      break;
    default:
      reader.Fail();
  }
  WEFT_RETURN_IF_ERROR(reader.Finish("ucx request"));
  return request;
}

std::string Encode(const Reply& reply) {
  base::ByteWriter writer;
  writer.U8(static_cast<uint8_t>(reply.kind));
  writer.U64(reply.id);
  writer.U32(static_cast<uint32_t>(reply.status.raw_code()));
  const absl::string_view message = reply.status.message();
  writer.Bytes(std::string_view(message.data(), message.size()));
  writer.I64(reply.size_bytes);
  return writer.Take();
}

absl::StatusOr<Reply> DecodeReply(std::string_view bytes) {
  base::ByteReader reader(bytes);
  Reply reply;
  reply.kind = static_cast<Reply::Kind>(reader.U8());
  reply.id = reader.U64();
  const auto code = static_cast<absl::StatusCode>(reader.U32());
  reply.status = absl::Status(code, std::string(reader.Bytes()));
  reply.size_bytes = reader.I64();
  if (reply.kind != Reply::Kind::kAnswer && reply.kind != Reply::Kind::kBye) {
    reader.Fail();
  }
  WEFT_RETURN_IF_ERROR(reader.Finish("ucx reply"));
  return reply;
}

std::string Encode(const DataHeader& header) {
  base::ByteWriter writer;
  writer.U64(header.id);
  writer.I64(header.packed_offset_bytes);
  return writer.Take();
}

absl::StatusOr<DataHeader> DecodeDataHeader(std::string_view bytes) {
  base::ByteReader reader(bytes);
  DataHeader header;
  header.id = reader.U64();
  header.packed_offset_bytes = reader.I64();
  WEFT_RETURN_IF_ERROR(reader.Finish("ucx data header"));
  return header;
}

}  // namespace weft::transport::ucx
