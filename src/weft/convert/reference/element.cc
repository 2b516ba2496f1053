#include "weft/convert/reference/element.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "weft/convert/transform.h"

namespace weft::convert::reference {
namespace {

using tensor::DType;

// A binary interchange format: sign, exponent, mantissa.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int min_exponent() const { return 1 - bias(); }  // of normal values
  int sign_shift() const { return exponent_bits + mantissa_bits; }
  uint32_t infinity() const {
    return ((uint32_t{1} << exponent_bits) - 1) << mantissa_bits;
  }
  uint32_t quiet_bit() const { return uint32_t{1} << (mantissa_bits - 1); }
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return {5, 10};
    case DType::kBF16:
      return {8, 7};
    default:
      return {8, 23};
  }
}

uint32_t LoadBits(DType dtype, const std::byte* src) {
  uint32_t bits = 0;
  // Little endian: the low bytes come first.
  std::memcpy(&bits, src, static_cast<size_t>(tensor::ItemBytes(dtype)));
  return bits;
}

// Magnitude of a finite value; exact, since double holds all three formats.
double Magnitude(const Format& format, uint32_t bits) {
  const int mantissa_bits = format.mantissa_bits;
  const uint32_t magnitude = bits & ((uint32_t{1} << format.sign_shift()) - 1);
  const int exponent = static_cast<int>(magnitude >> mantissa_bits);
  const uint32_t mantissa = magnitude & ((uint32_t{1} << mantissa_bits) - 1);
  if (exponent == 0) {
    return std::ldexp(mantissa, format.min_exponent() - mantissa_bits);
  }
  return std::ldexp(mantissa + (uint32_t{1} << mantissa_bits),
                    exponent - format.bias() - mantissa_bits);
}

// The bits, without sign, of `magnitude` rounded to nearest, ties to even.
uint32_t RoundMagnitude(const Format& format, double magnitude) {
  if (magnitude == 0) return 0;
  int exponent = std::ilogb(magnitude);
  if (exponent < format.min_exponent()) exponent = format.min_exponent();
  // Counted in units in the last place, which are powers of two, so that the
  // quotient is exact.
  const double ulps = std::ldexp(magnitude, format.mantissa_bits - exponent);
  const double whole = std::floor(ulps);
  const double rest = ulps - whole;
  auto count = static_cast<uint64_t>(whole);
  if (rest > 0.5 || (rest == 0.5 && count % 2 == 1)) ++count;
  // `count` of a normal value includes the hidden bit, which is 1 in the
  // exponent's place; rounding up to the next power of two carries into it.
  const uint64_t bits = (static_cast<uint64_t>(exponent - format.min_exponent())
                         << format.mantissa_bits) +
                        count;
  return bits >= format.infinity() ? format.infinity()
                                   : static_cast<uint32_t>(bits);
}

uint32_t ConvertBits(const Format& from, const Format& to, uint32_t bits) {
  const uint32_t sign = (bits >> from.sign_shift()) << to.sign_shift();
  const uint32_t magnitude = bits & ((uint32_t{1} << from.sign_shift()) - 1);
  if (magnitude > from.infinity()) {
    const uint32_t payload = magnitude - from.infinity();
    const int shift = to.mantissa_bits - from.mantissa_bits;
    return sign | to.infinity() | to.quiet_bit() |
           (shift >= 0 ? payload << shift : payload >> -shift);
  }
  if (magnitude == from.infinity()) return sign | to.infinity();
  return sign | RoundMagnitude(to, Magnitude(from, bits));
}

// The exponent e of 2^(e - 127) <= |x| < 2^(e - 126), 0 below that, 255 for
// what is not finite.
uint8_t ExponentByte(uint32_t float_bits) {
  const auto value = std::fabs(std::bit_cast<float>(float_bits));
  if (!std::isfinite(value)) return 255;
  if (value == 0) return 0;
  return static_cast<uint8_t>(std::max(0, std::ilogb(value) + 127));
}

}  // namespace

void ConvertElement(const tensor::Conversion& conversion, const std::byte* src,
                    std::byte* dst) {
  const auto dst_bytes = static_cast<size_t>(tensor::ItemBytes(conversion.to));
  if (conversion.identity()) {
    std::memcpy(dst, src, dst_bytes);
    return;
  }
  if (conversion.to == DType::kF8E8M0) {
    *dst = static_cast<std::byte>(ExponentByte(LoadBits(conversion.from, src)));
    return;
  }
  uint32_t bits = ConvertBits(FormatOf(conversion.from), FormatOf(DType::kF32),
                              LoadBits(conversion.from, src));
  if (conversion.transform != tensor::Transform::kNone) {
    bits = std::bit_cast<uint32_t>(
        ApplyTransform(conversion.transform, std::bit_cast<float>(bits)));
  }
  bits = ConvertBits(FormatOf(DType::kF32), FormatOf(conversion.to), bits);
  std::memcpy(dst, &bits, dst_bytes);
}

}  // namespace weft::convert::reference
