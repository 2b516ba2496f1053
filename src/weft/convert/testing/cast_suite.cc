#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

using tensor::DType;

// A 16-bit format as the table of all its values: the search that follows
// knows nothing of rounding by bits.
class HalfTable {
 public:
  HalfTable(int exponent_bits, int mantissa_bits)
      : mantissa_bits_(mantissa_bits),
        infinity_(static_cast<uint16_t>(((1u << exponent_bits) - 1)
                                        << mantissa_bits)) {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    // One value past the largest finite one: what infinity stands for when a
    // value is rounded, as if the exponent went on.
    for (uint32_t bits = 0; bits <= infinity_; ++bits) {
      const int exponent = static_cast<int>(bits >> mantissa_bits);
      const double mantissa =
          static_cast<double>(bits % (1u << mantissa_bits)) /
          static_cast<double>(1u << mantissa_bits);
      values_.push_back(exponent == 0
                            ? mantissa * std::pow(2.0, 1 - bias)
                            : (1 + mantissa) * std::pow(2.0, exponent - bias));
    }
  }

  uint16_t infinity() const { return infinity_; }
  const std::vector<double>& values() const { return values_; }
  bool IsNaN(uint16_t bits) const { return (bits & 0x7fff) > infinity_; }
  int mantissa_bits() const { return mantissa_bits_; }

  // Of a finite or infinite pattern.
  double Value(uint16_t bits) const {
    const uint16_t magnitude = bits & 0x7fff;
    const double value = magnitude == infinity_
                             ? std::numeric_limits<double>::infinity()
                             : values_[magnitude];
    return (bits >> 15) != 0 ? -value : value;
  }

  uint16_t Nearest(double value) const {
    const double magnitude = std::fabs(value);
    const auto above =
        std::lower_bound(values_.begin(), values_.end(), magnitude);
    auto bits = static_cast<size_t>(above - values_.begin());
    if (above == values_.end()) {
      bits = infinity_;
    } else if (bits > 0) {
      const double up = *above - magnitude;
      const double down = magnitude - values_[bits - 1];
      if (down < up || (down == up && bits % 2 == 1)) --bits;
    }
    return static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000u : 0u));
  }

 private:
  int mantissa_bits_;
  uint16_t infinity_;
  std::vector<double> values_;
};

const HalfTable& TableOf(DType dtype) {
  static const HalfTable* const f16 = new HalfTable(5, 10);
  static const HalfTable* const bf16 = new HalfTable(8, 7);
  return dtype == DType::kF16 ? *f16 : *bf16;
}

// Sign, all ones, the quiet bit, and the upper bits of the payload.
uint32_t QuietFloatNaN(uint32_t sign, uint32_t payload) {
  return sign << 31 | 0x7fc00000u | payload;
}
uint16_t QuietHalfNaN(DType to, uint32_t float_bits) {
  const HalfTable& table = TableOf(to);
  const uint32_t payload =
      (float_bits & 0x7fffffu) >> (23 - table.mantissa_bits());
  return static_cast<uint16_t>((float_bits >> 31 << 15) | table.infinity() |
                               (1u << (table.mantissa_bits() - 1)) | payload);
}

// The f32 that a 16-bit pattern becomes.
uint32_t ExpectedFloat(DType from, uint16_t bits) {
  const HalfTable& table = TableOf(from);
  if (table.IsNaN(bits)) {
    const uint32_t payload =
        static_cast<uint32_t>(bits & 0x7fff) - table.infinity();
    return QuietFloatNaN(bits >> 15, payload << (23 - table.mantissa_bits()));
  }
  return std::bit_cast<uint32_t>(static_cast<float>(table.Value(bits)));
}

uint16_t ExpectedHalf(DType to, uint32_t float_bits) {
  const float value = std::bit_cast<float>(float_bits);
  if (std::isnan(value)) return QuietHalfNaN(to, float_bits);
  return TableOf(to).Nearest(static_cast<double>(value));
}

template <typename From, typename To>
std::vector<To> Cast(const Kernels& kernels, DType from, DType to,
                     const std::vector<From>& values) {
  std::vector<To> result(values.size());
  StridedCopy copy;
  copy.src = reinterpret_cast<const std::byte*>(values.data());
  copy.dst = reinterpret_cast<std::byte*>(result.data());
  copy.modes = {{static_cast<int64_t>(values.size()),
                 static_cast<int64_t>(sizeof(From)),
                 static_cast<int64_t>(sizeof(To))}};
  copy.conversion = {from, to};
  kernels.Copy(copy);
  return result;
}

std::vector<uint16_t> AllHalves() {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  return all;
}

// f32 values on, and one step beside, each value of the format and each
// midpoint of two neighbours, with both signs.
std::vector<uint32_t> BoundariesOf(DType dtype) {
  std::vector<uint32_t> bits;
  const auto add = [&](float value) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float each : {value, std::nextafter(value, infinity),
                             std::nextafter(value, -infinity)}) {
      bits.push_back(std::bit_cast<uint32_t>(each));
      bits.push_back(std::bit_cast<uint32_t>(-each));
    }
  };
  const std::vector<double>& values = TableOf(dtype).values();
  for (size_t i = 0; i + 1 < values.size(); ++i) {
    add(static_cast<float>(values[i]));
    add(static_cast<float>((values[i] + values[i + 1]) / 2));
  }
  return bits;
}

std::vector<uint32_t> SpecialFloats() {
  std::vector<uint32_t> bits;
  for (const uint32_t sign : {0u, 0x80000000u}) {
    for (const uint32_t each :
         {0u,          1u,          2u,          0x7fffu,     0x8000u,
          0x8001u,     0x007fffffu, 0x00800000u, 0x32ffffffu, 0x33000000u,
          0x33000001u, 0x33800000u, 0x387fffffu, 0x477fe000u, 0x477fefffu,
          0x477ff000u, 0x477ff001u, 0x47800000u, 0x7f7f7fffu, 0x7f7f8000u,
          0x7f7fffffu, 0x7f800000u}) {
      bits.push_back(sign | each);
    }
    for (int bit = 0; bit < 23; ++bit) {
      bits.push_back(sign | 0x7f800000u | 1u << bit);
      bits.push_back(sign | (0x7fffffffu ^ (1u << bit)));
    }
  }
  return bits;
}

}  // namespace

void CheckCastsOfHalves(const Kernels& kernels) {
  const std::vector<uint16_t> all = AllHalves();
  for (const DType from : {DType::kBF16, DType::kF16}) {
    const DType other = from == DType::kBF16 ? DType::kF16 : DType::kBF16;
    const auto floats =
        Cast<uint16_t, uint32_t>(kernels, from, DType::kF32, all);
    const auto halves = Cast<uint16_t, uint16_t>(kernels, from, other, all);
    for (size_t i = 0; i < all.size(); ++i) {
      const uint32_t expected = ExpectedFloat(from, all[i]);
      ASSERT_EQ(floats[i], expected) << "input " << std::hex << all[i];
      ASSERT_EQ(halves[i], ExpectedHalf(other, expected))
          << "input " << std::hex << all[i];
    }
  }
}

void CheckCastsOfFloats(const Kernels& kernels) {
  for (const DType to : {DType::kBF16, DType::kF16}) {
    std::vector<uint32_t> bits = BoundariesOf(to);
    for (const uint32_t special : SpecialFloats()) bits.push_back(special);
    // A stride through all patterns that meets every exponent.
    for (uint64_t i = 0; i < 1u << 18; ++i) {
      bits.push_back(static_cast<uint32_t>(i * 16411 + i / 3));
    }
    const auto halves =
        Cast<uint32_t, uint16_t>(kernels, DType::kF32, to, bits);
    for (size_t i = 0; i < bits.size(); ++i) {
      ASSERT_EQ(halves[i], ExpectedHalf(to, bits[i]))
          << "input " << std::hex << bits[i];
    }
  }
}

void CheckCastsToExponents(const Kernels& kernels) {
  std::vector<uint32_t> bits = SpecialFloats();
  for (uint64_t i = 0; i < 1u << 18; ++i) {
    bits.push_back(static_cast<uint32_t>(i * 16411 + i / 3));
  }
  const auto bytes =
      Cast<uint32_t, uint8_t>(kernels, DType::kF32, DType::kF8E8M0, bits);
  for (size_t i = 0; i < bits.size(); ++i) {
    const double magnitude =
        std::fabs(static_cast<double>(std::bit_cast<float>(bits[i])));
    int expected = 255;
    if (std::isfinite(magnitude)) {
      expected = 0;
      while (expected < 254 && magnitude >= std::ldexp(1.0, expected - 126)) {
        ++expected;
      }
    }
    ASSERT_EQ(bytes[i], expected) << "input " << std::hex << bits[i];
  }
}

}  // namespace weft::convert::testing
