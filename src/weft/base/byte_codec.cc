#include "weft/base/byte_codec.h"

#include <cassert>
#include <limits>

#include "absl/strings/str_cat.h"

namespace weft::base {
namespace {

template <typename T>
void AppendLittleEndian(T value, std::string& bytes) {
  // One append, and a loop that compiles to a store: digests of a fleet's
  // placements write hundreds of millions of bytes.
  char encoded[sizeof(T)];
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    encoded[i] = static_cast<char>((value >> (8 * i)) & 0xff);
  }
  bytes.append(encoded, sizeof(T));
}

template <typename T>
T TakeLittleEndian(std::string_view& bytes, bool& ok) {
  if (!ok || bytes.size() < sizeof(T)) {
    ok = false;
    return 0;
  }
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<T>(static_cast<uint8_t>(bytes[i]))
                            << (8 * i));
  }
  bytes.remove_prefix(sizeof(T));
  return value;
}

}  // namespace

void ByteWriter::U8(uint8_t value) {
  bytes_.push_back(static_cast<char>(value));
}
void ByteWriter::U32(uint32_t value) { AppendLittleEndian(value, bytes_); }
void ByteWriter::U64(uint64_t value) { AppendLittleEndian(value, bytes_); }
void ByteWriter::Bytes(std::string_view bytes) {
  assert(bytes.size() <= std::numeric_limits<uint32_t>::max());
  U32(static_cast<uint32_t>(bytes.size()));
  bytes_.append(bytes);
}

uint8_t ByteReader::U8() { return TakeLittleEndian<uint8_t>(bytes_, ok_); }
uint32_t ByteReader::U32() { return TakeLittleEndian<uint32_t>(bytes_, ok_); }
uint64_t ByteReader::U64() { return TakeLittleEndian<uint64_t>(bytes_, ok_); }

std::string_view ByteReader::Bytes() {
  const uint32_t count = U32();
  if (!ok_ || bytes_.size() < count) {
    ok_ = false;
    return {};
  }
  const std::string_view taken = bytes_.substr(0, count);
  bytes_.remove_prefix(count);
  return taken;
}

std::size_t ByteReader::Count(std::size_t min_item_bytes) {
  const uint32_t count = U32();
  if (!ok_ ||
      bytes_.size() / (min_item_bytes == 0 ? 1 : min_item_bytes) < count) {
    ok_ = false;
    return 0;
  }
  return count;
}

absl::Status ByteReader::Finish(std::string_view what) const {
  if (!ok_) {
    return absl::DataLossError(
        absl::StrCat(std::string(what), " is truncated or malformed"));
  }
  if (!bytes_.empty()) {
    return absl::DataLossError(absl::StrCat(std::string(what), " has ",
                                            bytes_.size(), " bytes too many"));
  }
  return absl::OkStatus();
}

}  // namespace weft::base
