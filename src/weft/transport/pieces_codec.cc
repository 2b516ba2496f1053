#include "weft/transport/pieces_codec.h"

#include <cstddef>
#include <cstdint>

namespace weft::transport {
namespace {

constexpr size_t kModeBytes = 16;

}  // namespace

void WritePieces(const StridedPieces& pieces, base::ByteWriter& writer) {
  writer.I64(pieces.offset_bytes);
  writer.I64(pieces.piece_bytes);
  writer.U32(static_cast<uint32_t>(pieces.modes.size()));
  for (const StridedPieces::Mode& mode : pieces.modes) {
    writer.I64(mode.extent);
    writer.I64(mode.stride_bytes);
  }
}

StridedPieces ReadPieces(base::ByteReader& reader) {
  StridedPieces pieces;
  pieces.offset_bytes = reader.I64();
  pieces.piece_bytes = reader.I64();
  const size_t count = reader.Count(kModeBytes);
  for (size_t i = 0; i < count; ++i) {
    const int64_t extent = reader.I64();
    const int64_t stride_bytes = reader.I64();
    pieces.modes.push_back({extent, stride_bytes});
  }
  return pieces;
}

}  // namespace weft::transport
