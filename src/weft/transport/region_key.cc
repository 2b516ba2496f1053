#include "weft/transport/region_key.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"

namespace weft::transport {
namespace {

constexpr uint32_t kFormatVersion = 1;

// FNV-1a: finds damage, does not resist intent. Whoever may send a key may
// read the memory anyway.
uint64_t Checksum(std::string_view bytes) {
  uint64_t sum = 0xcbf29ce484222325;
  for (const char byte : bytes) {
    sum = (sum ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  }
  return sum;
}

}  // namespace

uint64_t RandomId() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

std::string Seal(std::string_view leaf, std::string_view what,
                 std::string_view payload) {
  base::ByteWriter body;
  body.U32(kFormatVersion);
  body.Bytes(leaf);
  body.Bytes(what);
  body.Bytes(payload);
  base::ByteWriter sealed;
  sealed.U64(Checksum(body.bytes()));
  return sealed.Take() + body.bytes();
}

absl::StatusOr<std::string> Unseal(std::string_view leaf, std::string_view what,
                                   std::string_view sealed) {
  base::ByteReader reader(sealed);
  const uint64_t checksum = reader.U64();
  if (!reader.ok() || checksum != Checksum(sealed.substr(8))) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", std::string(leaf), " ", std::string(what), " of ",
                     sealed.size(), " bytes is damaged or truncated"));
  }
  const uint32_t version = reader.U32();
  const std::string_view found_leaf = reader.Bytes();
  const std::string_view found_what = reader.Bytes();
  const std::string_view payload = reader.Bytes();
  if (!reader.Finish(what).ok() || version != kFormatVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the ", std::string(leaf), " ", std::string(what), " has format ",
        version, ", this process reads format ", kFormatVersion));
  }
  if (found_leaf != leaf || found_what != what) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected a ", std::string(leaf), " ", std::string(what), ", got a ",
        std::string(found_leaf), " ", std::string(found_what)));
  }
  return std::string(payload);
}

std::string EncodeKey(std::string_view leaf, const RegionKey& key) {
  base::ByteWriter writer;
  writer.U64(key.instance);
  writer.U64(key.slot);
  writer.U64(key.generation);
  writer.I64(key.size_bytes);
  writer.U8(key.mappable ? 1 : 0);
  writer.Bytes(key.native);
  return Seal(leaf, "region key", writer.bytes());
}

absl::StatusOr<RegionKey> DecodeKey(std::string_view leaf,
                                    std::string_view bytes) {
  WEFT_ASSIGN_OR_RETURN(const std::string payload,
                        Unseal(leaf, "region key", bytes));
  base::ByteReader reader(payload);
  RegionKey key;
  key.instance = reader.U64();
  key.slot = reader.U64();
  key.generation = reader.U64();
  key.size_bytes = reader.I64();
  key.mappable = reader.U8() != 0;
  key.native = std::string(reader.Bytes());
  if (!reader.Finish("region key").ok() || key.size_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the ", std::string(leaf), " region key holds no valid description"));
  }
  return key;
}

}  // namespace weft::transport
