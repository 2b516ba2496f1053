// Little-endian byte encoding for everything that Weft hashes or sends in its
// own format. Writers are deterministic: equal values give equal bytes, which
// is what a layout digest needs. Readers never trust a length.
#ifndef WEFT_BASE_BYTE_CODEC_H_
#define WEFT_BASE_BYTE_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace weft::base {

class ByteWriter {
 public:
  void U8(uint8_t value);
  void U32(uint32_t value);
  void U64(uint64_t value);
  void I64(int64_t value) { U64(static_cast<uint64_t>(value)); }
  // U32 byte count, then the bytes; fewer than 2^32 of them.
  void Bytes(std::string_view bytes);

  // Room for as many bytes in all, so that long encodings need not grow.
  void Reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  const std::string& bytes() const { return bytes_; }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads what ByteWriter wrote. After the first read past the end every read
// returns zero or empty, and status() says what went wrong: check it once, at
// the end (and before using a count to size anything).
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  uint8_t U8();
  uint32_t U32();
  uint64_t U64();
  int64_t I64() { return static_cast<int64_t>(U64()); }
  std::string_view Bytes();

  // Reads a U32 count of items of at least `min_item_bytes` each; fails if
  // the rest of the input cannot hold that many.
  std::size_t Count(std::size_t min_item_bytes);

  bool ok() const { return ok_; }
  std::size_t remaining() const { return bytes_.size(); }
  // kDataLoss if any read failed, or if bytes are left over.
  absl::Status Finish(std::string_view what) const;
  void Fail() { ok_ = false; }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace weft::base

#endif  // WEFT_BASE_BYTE_CODEC_H_
