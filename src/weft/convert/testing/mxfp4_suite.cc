#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

constexpr size_t kGuard = 64;

std::vector<uint16_t> Dequantise(const Kernels& kernels,
                                 const std::vector<uint8_t>& blocks,
                                 const std::vector<uint8_t>& scales,
                                 size_t shift) {
  std::vector<uint8_t> src(shift, 0xee);
  src.insert(src.end(), blocks.begin(), blocks.end());
  const size_t bytes = 64 * scales.size();
  std::vector<uint8_t> dst(bytes + shift + 2 * kGuard, 0xa5);
  Mxfp4Blocks work;
  work.blocks = reinterpret_cast<const std::byte*>(src.data() + shift);
  work.scales = reinterpret_cast<const std::byte*>(scales.data());
  work.num_blocks = static_cast<int64_t>(scales.size());
  work.dst = reinterpret_cast<std::byte*>(dst.data() + kGuard + shift);
  kernels.DequantiseMxfp4(work);
  std::vector<uint16_t> result(bytes / 2);
  if (bytes > 0) {
    std::memcpy(result.data(), dst.data() + kGuard + shift, bytes);
    std::memset(dst.data() + kGuard + shift, 0xa5, bytes);
  }
  EXPECT_EQ(std::count(dst.begin(), dst.end(), 0xa5),
            static_cast<std::ptrdiff_t>(dst.size()))
      << "written beside the destination";
  return result;
}

// The value of a bf16 pattern.
double ValueOf(uint16_t bits) {
  const int exponent = bits >> 7 & 0xff;
  const double mantissa = bits & 0x7f;
  const double magnitude =
      exponent == 255 ? std::numeric_limits<double>::infinity()
      : exponent == 0 ? std::ldexp(mantissa, -133)
                      : std::ldexp(128 + mantissa, exponent - 134);
  return bits >> 15 != 0 ? -magnitude : magnitude;
}

// What the published decoder makes of a code and a scale: the exact product,
// infinity where BF16 ends.
double Expected(unsigned code, unsigned scale) {
  const double table[] = {0.0,  0.5,  1.0,  1.5,  2.0,  3.0,  4.0,  6.0,
                          -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0};
  const double value = std::ldexp(table[code], static_cast<int>(scale) - 127);
  return std::fabs(value) >= std::ldexp(1.0, 128)
             ? std::copysign(std::numeric_limits<double>::infinity(), value)
             : value;
}

}  // namespace

void CheckMxfp4(const Kernels& kernels) {
  std::mt19937_64 random(32);
  for (size_t num_blocks : {0, 1, 2, 3, 17, 1024}) {
    std::vector<uint8_t> blocks(16 * num_blocks);
    std::vector<uint8_t> scales(num_blocks);
    for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
    for (size_t i = 0; i < num_blocks; ++i) {
      scales[i] = static_cast<uint8_t>(i * 91 + 127);
    }
    for (const size_t shift : {0, 1, 7}) {
      const auto got = Dequantise(kernels, blocks, scales, shift);
      for (size_t i = 0; i < got.size(); ++i) {
        const unsigned code =
            i % 2 == 0 ? blocks[i / 2] & 15 : blocks[i / 2] >> 4;
        const double expected = Expected(code, scales[i / 32]);
        ASSERT_EQ(ValueOf(got[i]), expected)
            << "code " << code << ", scale " << int{scales[i / 32]};
        ASSERT_EQ(got[i] >> 15 != 0, std::signbit(expected));
      }
    }
  }
  // As transformers' convert_moe_packed_tensors gives them, the largest scale
  // and the least.
  const std::vector<uint8_t> codes = {
      0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0};
  std::vector<uint8_t> twice = codes;
  twice.insert(twice.end(), codes.begin(), codes.end());
  const auto got = Dequantise(kernels, twice, {0, 255}, 0);
  const std::vector<uint16_t> least(got.begin(), got.begin() + 16);
  const std::vector<uint16_t> most(got.begin() + 32, got.begin() + 48);
  EXPECT_EQ(least, (std::vector<uint16_t>{0x0000, 0x0020, 0x0040, 0x0060,
                                          0x0080, 0x00c0, 0x0100, 0x0140,
                                          0x8000, 0x8020, 0x8040, 0x8060,
                                          0x8080, 0x80c0, 0x8100, 0x8140}));
  EXPECT_EQ(most, (std::vector<uint16_t>{0x0000, 0x7f00, 0x7f80, 0x7f80, 0x7f80,
                                         0x7f80, 0x7f80, 0x7f80, 0x8000, 0xff00,
                                         0xff80, 0xff80, 0xff80, 0xff80, 0xff80,
                                         0xff80}));
}

}  // namespace weft::convert::testing
