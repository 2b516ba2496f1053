// Overflow-checked 64-bit arithmetic. Every product of extents and every
// byte offset that comes from outside goes through these.
#ifndef WEFT_BASE_CHECKED_H_
#define WEFT_BASE_CHECKED_H_

#include <cstdint>
#include <optional>

namespace weft::base {

// a*b, a+b, or nullopt when the exact result does not fit int64.
inline std::optional<int64_t> CheckedMul(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
inline std::optional<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

// ceil(a / b) for a >= 0, b > 0.
constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return a / b + (a % b != 0 ? 1 : 0);
}
// Smallest multiple of b that is >= a, for a >= 0, b > 0.
constexpr int64_t AlignUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

}  // namespace weft::base

#endif  // WEFT_BASE_CHECKED_H_
