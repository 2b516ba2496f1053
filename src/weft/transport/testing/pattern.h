// Bytes that a test can predict at any place without copying them.
#ifndef WEFT_TRANSPORT_TESTING_PATTERN_H_
#define WEFT_TRANSPORT_TESTING_PATTERN_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace weft::transport {

// Byte `index` of pattern `seed`; neighbours and equal places of other seeds
// differ, and no short period hides a shift.
inline std::byte PatternByte(uint64_t seed, int64_t index) {
  uint64_t x = static_cast<uint64_t>(index) + seed * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9;
  return static_cast<std::byte>(x >> 56);
}

// memory[i] = PatternByte(seed, first_index + i).
inline void FillPattern(absl::Span<std::byte> memory, uint64_t seed,
                        int64_t first_index = 0) {
  for (size_t i = 0; i < memory.size(); ++i) {
    memory[i] = PatternByte(seed, first_index + static_cast<int64_t>(i));
  }
}

// Index of the first byte that differs from the pattern, or -1.
inline int64_t FindMismatch(absl::Span<const std::byte> memory, uint64_t seed,
                            int64_t first_index = 0) {
  for (size_t i = 0; i < memory.size(); ++i) {
    if (memory[i] != PatternByte(seed, first_index + static_cast<int64_t>(i))) {
      return static_cast<int64_t>(i);
    }
  }
  return -1;
}

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_TESTING_PATTERN_H_
