#include "weft/catalog/state/command.h"

#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/state/field_codec.h"

namespace weft::catalog {
namespace {

constexpr uint8_t kFormat = 5;

}  // namespace

std::string EncodeCommand(const Command& command) {
  base::ByteWriter writer;
  writer.U8(kFormat);
  writer.U8(static_cast<uint8_t>(command.kind));
  writer.Bytes(command.server);
  writer.U64(command.sequence);
  writer.I64(command.now_ns);
  writer.Bytes(command.id);
  writer.Bytes(command.text);
  writer.U64(command.number);
  writer.U64(command.token);
  writer.U8(command.flag ? 1 : 0);
  Write(command.version, writer);
  if (command.kind == Command::Kind::kRegister) Write(command.info, writer);
  return writer.Take();
}

absl::StatusOr<Command> DecodeCommand(std::string_view bytes) {
  base::ByteReader reader(bytes);
  if (const uint8_t format = reader.U8(); format != kFormat) reader.Fail();
  Command command;
  const uint8_t kind = reader.U8();
  if (kind < static_cast<uint8_t>(Command::Kind::kJoin) ||
      kind > static_cast<uint8_t>(Command::Kind::kRenew)) {
    reader.Fail();
  }
  command.kind = static_cast<Command::Kind>(kind);
  command.server = std::string(reader.Bytes());
  command.sequence = reader.U64();
  command.now_ns = reader.I64();
  command.id = std::string(reader.Bytes());
  command.text = std::string(reader.Bytes());
  command.number = reader.U64();
  command.token = reader.U64();
  command.flag = ReadFlag(reader);
  command.version = ReadVersionId(reader);
  if (reader.ok() && command.kind == Command::Kind::kRegister) {
    command.info = ReadWorkerInfo(reader);
  }
  if (command.now_ns < 0 || command.now_ns > kLastClockNs) reader.Fail();
  WEFT_RETURN_IF_ERROR(reader.Finish("catalog command"));
  if (command.kind == Command::Kind::kRegister) {
    WEFT_RETURN_IF_ERROR(CheckWorkerInfo(command.info));
  }
  if (command.kind == Command::Kind::kPutPlacement) {
    WEFT_RETURN_IF_ERROR(CheckDigestHex(command.id));
    if (command.number > static_cast<uint64_t>(kMaxPlacementBytes)) {
      return absl::DataLossError("catalog command puts a placement too large");
    }
  }
  return command;
}

}  // namespace weft::catalog
