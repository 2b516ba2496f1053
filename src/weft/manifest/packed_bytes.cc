#include "weft/manifest/packed_bytes.h"

#include <zstd.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"

namespace weft::manifest {
namespace {

constexpr uint32_t kPackedMagic = 0x5a504657;  // "WFPZ"
constexpr size_t kHeaderBytes = 4 + 8;
// The fastest: higher ones save a tenth of the bytes for ten times the work.
constexpr int kLevel = 1;

}  // namespace

std::string PackBytes(std::string_view bytes) {
  base::ByteWriter writer;
  writer.U32(kPackedMagic);
  writer.U64(bytes.size());
  std::string packed = writer.Take();
  packed.resize(kHeaderBytes + ZSTD_compressBound(bytes.size()));
  // Fails only for want of room, and there is room.
  const size_t size =
      ZSTD_compress(packed.data() + kHeaderBytes, packed.size() - kHeaderBytes,
                    bytes.data(), bytes.size(), kLevel);
  packed.resize(kHeaderBytes + size);
  return packed;
}

absl::StatusOr<std::string> UnpackBytes(std::string_view packed) {
  base::ByteReader reader(packed);
  const uint32_t magic = reader.U32();
  const uint64_t size = reader.U64();
  if (!reader.ok() || magic != kPackedMagic) {
    return absl::DataLossError("these bytes are not packed by weft");
  }
  if (size > kMaxUnpackedBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("packed bytes claim to be ", size, " bytes; at most ",
                     kMaxUnpackedBytes, " are taken"));
  }
  const std::string_view frame = packed.substr(kHeaderBytes);
  // What the frame itself says, before memory is taken for it.
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != size) {
    return absl::DataLossError(absl::StrCat("packed bytes claim to be ", size,
                                            " bytes, their frame does not"));
  }
  std::string bytes(size, '\0');
  const size_t got =
      ZSTD_decompress(bytes.data(), bytes.size(), frame.data(), frame.size());
  if (ZSTD_isError(got) != 0 || got != size) {
    return absl::DataLossError(absl::StrCat(
        "packed bytes are damaged: ",
        ZSTD_isError(got) != 0 ? ZSTD_getErrorName(got) : "too short"));
  }
  return bytes;
}

}  // namespace weft::manifest
