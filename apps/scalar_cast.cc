#include "scalar_cast.h"

#include <bit>
#include <cmath>

namespace weft::apps {
namespace {

using tensor::DType;

// Sign bit, exponent bits, fraction bits of the three formats.
struct Format {
  int exponent_bits;
  int fraction_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint32_t max_exponent() const { return (1u << exponent_bits) - 1; }
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return {8, 7};
    case DType::kF16:
      return {5, 10};
    default:
      return {8, 23};
  }
}

// fraction * 2^-shift, ties to even; shift >= 0.
uint64_t ShiftRounded(uint64_t fraction, int shift) {
  if (shift == 0) return fraction;
  if (shift > 62) return 0;
  const uint64_t half = uint64_t{1} << (shift - 1);
  const uint64_t rest = fraction & ((uint64_t{1} << shift) - 1);
  uint64_t kept = fraction >> shift;
  if (rest > half || (rest == half && (kept & 1) != 0)) ++kept;
  return kept;
}

float Transformed(tensor::Transform transform, float x) {
  switch (transform) {
    case tensor::Transform::kNegExp:
      return static_cast<float>(-std::exp(static_cast<double>(x)));
    case tensor::Transform::kPlusOne:
      return x + 1;
    case tensor::Transform::kMinusOne:
      return x - 1;
    case tensor::Transform::kNone:
      break;
  }
  return x;
}

}  // namespace

uint32_t CastBits(const tensor::Conversion& conversion, uint32_t bits) {
  if (conversion.transform != tensor::Transform::kNone) {
    const uint32_t wide = CastBits({conversion.from, DType::kF32}, bits);
    const float changed =
        Transformed(conversion.transform, std::bit_cast<float>(wide));
    return CastBits({DType::kF32, conversion.to},
                    std::bit_cast<uint32_t>(changed));
  }
  if (conversion.identity()) return bits;
  if (conversion.to == DType::kF8E8M0) return bits >> 23 & 0xff;
  const Format from = FormatOf(conversion.from);
  const Format to = FormatOf(conversion.to);
  const uint32_t sign = (bits >> (from.exponent_bits + from.fraction_bits))
                        << (to.exponent_bits + to.fraction_bits);
  const uint32_t exponent = (bits >> from.fraction_bits) & from.max_exponent();
  const uint32_t fraction = bits & ((1u << from.fraction_bits) - 1);
  const uint32_t infinity = to.max_exponent() << to.fraction_bits;

  if (exponent == from.max_exponent()) {
    if (fraction == 0) return sign | infinity;
    const int up = to.fraction_bits - from.fraction_bits;
    const uint32_t payload = up >= 0 ? fraction << up : fraction >> -up;
    return sign | infinity | payload | (1u << (to.fraction_bits - 1));
  }
  if (exponent == 0 && fraction == 0) return sign;

  // The value is significand * 2^power.
  uint64_t significand = fraction;
  int power = 1 - from.bias() - from.fraction_bits;
  if (exponent != 0) {
    significand |= uint64_t{1} << from.fraction_bits;
    power += static_cast<int>(exponent) - 1;
  }
  // Normalise to 40 significant bits: more than any format keeps.
  constexpr int kTopBit = 39;
  while ((significand >> kTopBit) == 0) {
    significand <<= 1;
    --power;
  }
  // Biased exponent if normal; 1 is the exponent that subnormals share.
  int biased = power + kTopBit + to.bias();
  int drop = kTopBit - to.fraction_bits;
  if (biased < 1) {
    drop += 1 - biased;
    biased = 1;
  }
  // The rounded significand carries into the exponent by itself; the hidden
  // bit of a normal number adds 1 to (biased - 1).
  const uint64_t rounded = ShiftRounded(significand, drop);
  const uint64_t magnitude =
      (static_cast<uint64_t>(biased - 1) << to.fraction_bits) + rounded;
  if (magnitude >= infinity) return sign | infinity;
  return sign | static_cast<uint32_t>(magnitude);
}

}  // namespace weft::apps
