#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

using tensor::DType;
using tensor::ScaleRule;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kLeastExponent = -6;  // of a normal E4M3
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// --- The oracle. Products and quotients of f32 are taken in double, which
// holds the former exactly and rounds the latter so that rounding once more
// gives the f32; codes come of counting units in the last place.

float ExpectedScale(ScaleRule rule, double amax) {
  if (std::isnan(amax)) return kNaN;
  if (std::isinf(amax)) return kInfinity;
  const double least = static_cast<double>(1e-4f);
  const double one_448th = static_cast<double>(static_cast<float>(1.0 / 448));
  const auto scale = static_cast<float>(std::max(amax, least) * one_448th);
  if (rule == ScaleRule::kFloat) return scale;
  return static_cast<float>(
      std::exp2(std::ceil(std::log2(static_cast<double>(scale)))));
}

uint8_t ExpectedCode(float value, float scale) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const auto inverse = static_cast<float>(1.0 / static_cast<double>(scale));
  const auto scaled = static_cast<float>(static_cast<double>(value) *
                                         static_cast<double>(inverse));
  if (std::isnan(scaled)) return sign | 0x7f;
  double magnitude = std::fabs(static_cast<double>(scaled));
  if (magnitude == 0) return sign;
  const auto exponent = [](double x) {
    return std::max(std::ilogb(x), kLeastExponent);
  };
  const int before = exponent(magnitude);
  magnitude =
      std::ldexp(std::nearbyint(std::ldexp(magnitude, 3 - before)), before - 3);
  magnitude = std::min(magnitude, 448.0);
  if (magnitude == 0) return sign;
  const int after = exponent(magnitude);
  const auto code = 8 * (after - kLeastExponent) +
                    static_cast<int>(std::ldexp(magnitude, 3 - after));
  return sign | static_cast<uint8_t>(code);
}

// A 16-bit or 32-bit pattern as a value.
float ValueOf(DType dtype, uint32_t bits) {
  if (dtype == DType::kF32) return std::bit_cast<float>(bits);
  if (dtype == DType::kBF16) return std::bit_cast<float>(bits << 16);
  const auto mantissa = static_cast<float>(bits & 0x3ff);
  const auto exponent = static_cast<int>(bits >> 10 & 31);
  const float magnitude = exponent == 31 ? (mantissa == 0 ? kInfinity : kNaN)
                          : exponent == 0
                              ? std::ldexp(mantissa, -24)
                              : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits >> 15) != 0 ? -magnitude : magnitude;
}

// --- A matrix, quantised and compared.

struct Case {
  DType dtype = DType::kBF16;
  int64_t rows = 1;
  int64_t cols = 1;
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  ScaleRule rule = ScaleRule::kFloat;
  // Bytes between the end of a row and the next, and off the alignment.
  int64_t src_gap = 0;
  int64_t dst_gap = 0;
  int64_t scales_gap = 0;
  int64_t shift = 0;

  int64_t grid_rows() const { return (rows + block_rows - 1) / block_rows; }
  int64_t grid_cols() const { return (cols + block_cols - 1) / block_cols; }
  std::string ToString() const {
    return absl::StrCat(std::string(tensor::DTypeName(dtype)), " ", rows, "x",
                        cols, " in blocks of ", block_rows, "x", block_cols,
                        ", rule ", static_cast<int>(rule), ", gaps ", src_gap,
                        " ", dst_gap, " ", scales_gap, ", shift ", shift);
  }
};

struct Quantised {
  std::vector<uint8_t> codes;  // row by row, without gaps
  std::vector<uint32_t> scales;
};

std::vector<std::byte> Noise(size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = std::byte(i * 37 + 11);
  return bytes;
}

// Takes `row_bytes` of every row out of `got`, puts the noise back, and finds
// nothing but noise then.
std::vector<std::byte> TakeRows(std::vector<std::byte>& got, int64_t begin,
                                int64_t rows, int64_t row_bytes,
                                int64_t stride_bytes) {
  const std::vector<std::byte> noise = Noise(got.size());
  std::vector<std::byte> taken;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = begin + row * stride_bytes;
    taken.insert(taken.end(), got.begin() + at, got.begin() + at + row_bytes);
    std::copy_n(noise.begin() + at, row_bytes, got.begin() + at);
  }
  EXPECT_EQ(got, noise) << "written beside the destination";
  return taken;
}

Quantised Quantise(const Kernels& kernels, const Case& c,
                   const std::vector<uint32_t>& patterns) {
  constexpr int64_t kGuard = 160;
  const int64_t item = tensor::ItemBytes(c.dtype);
  BlockQuantisation work;
  work.src_dtype = c.dtype;
  work.rows = c.rows;
  work.cols = c.cols;
  work.block_rows = c.block_rows;
  work.block_cols = c.block_cols;
  work.rule = c.rule;
  work.src_stride_bytes = c.cols * item + c.src_gap;
  work.dst_stride_bytes = c.cols + c.dst_gap;
  work.scales_stride_bytes = 4 * c.grid_cols() + c.scales_gap;
  // Exactly as long as what is read, so that a sanitizer sees more.
  std::vector<std::byte> src = Noise(static_cast<size_t>(
      c.shift + (c.rows - 1) * work.src_stride_bytes + c.cols * item));
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t col = 0; col < c.cols; ++col) {
      const uint32_t bits = patterns[static_cast<size_t>(row * c.cols + col)];
      std::memcpy(
          src.data() + c.shift + row * work.src_stride_bytes + col * item,
          &bits, static_cast<size_t>(item));
    }
  }
  std::vector<std::byte> dst = Noise(static_cast<size_t>(
      c.rows * work.dst_stride_bytes + c.shift + 2 * kGuard));
  std::vector<std::byte> scales = Noise(static_cast<size_t>(
      c.grid_rows() * work.scales_stride_bytes + c.shift + 2 * kGuard));
  work.src = src.data() + c.shift;
  work.dst = dst.data() + kGuard + c.shift;
  work.scales = scales.data() + kGuard + c.shift;
  kernels.Quantise(work);
  const auto codes =
      TakeRows(dst, kGuard + c.shift, c.rows, c.cols, work.dst_stride_bytes);
  const auto scale_bytes =
      TakeRows(scales, kGuard + c.shift, c.grid_rows(), 4 * c.grid_cols(),
               work.scales_stride_bytes);
  Quantised result;
  for (const std::byte code : codes) {
    result.codes.push_back(static_cast<uint8_t>(code));
  }
  result.scales.resize(scale_bytes.size() / 4);
  std::memcpy(result.scales.data(), scale_bytes.data(), scale_bytes.size());
  return result;
}

void CheckCase(const Kernels& kernels, const Case& c,
               const std::vector<uint32_t>& patterns) {
  const Quantised got = Quantise(kernels, c, patterns);
  std::vector<double> amax(static_cast<size_t>(c.grid_rows() * c.grid_cols()),
                           0);
  const auto block_of = [&](int64_t row, int64_t col) {
    return static_cast<size_t>(row / c.block_rows * c.grid_cols() +
                               col / c.block_cols);
  };
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t col = 0; col < c.cols; ++col) {
      double& most = amax[block_of(row, col)];
      const double value = std::fabs(static_cast<double>(
          ValueOf(c.dtype, patterns[static_cast<size_t>(row * c.cols + col)])));
      most =
          std::isnan(value) || std::isnan(most) ? kNaN : std::max(most, value);
    }
  }
  for (size_t b = 0; b < amax.size(); ++b) {
    ASSERT_EQ(got.scales[b],
              std::bit_cast<uint32_t>(ExpectedScale(c.rule, amax[b])))
        << c.ToString() << ", block " << b << " of amax " << amax[b];
  }
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t col = 0; col < c.cols; ++col) {
      const auto at = static_cast<size_t>(row * c.cols + col);
      const float scale = std::bit_cast<float>(got.scales[block_of(row, col)]);
      ASSERT_EQ(got.codes[at],
                ExpectedCode(ValueOf(c.dtype, patterns[at]), scale))
          << c.ToString() << ", element " << row << "," << col << " of bits "
          << std::hex << patterns[at];
    }
  }
}

Case OneBlock(DType dtype, ScaleRule rule, size_t count) {
  Case c;
  c.dtype = dtype;
  c.rule = rule;
  c.cols = static_cast<int64_t>(count);
  c.block_rows = 1;
  c.block_cols = c.cols;
  return c;
}

constexpr ScaleRule kRules[] = {ScaleRule::kFloat, ScaleRule::kPowerOfTwo};

// Patterns of values about 1, with zeros of both signs, subnormals and now and
// then a NaN or an infinity.
uint32_t RandomPattern(DType dtype, bool non_finite, std::mt19937_64& random) {
  const auto sign = static_cast<uint32_t>(random() & 1);
  const auto noise = static_cast<uint32_t>(random() >> 32);
  const uint64_t kind = random() % 64;
  if (dtype == DType::kF32) {
    if (kind == 0) return sign << 31;
    if (kind == 1) return sign << 31 | (noise & 0x7fffffu);
    if (kind == 2 && non_finite && random() % 64 == 0) {
      return sign << 31 | 0x7f800000u | (noise & noise << 9 & 0x7fffffu);
    }
    return sign << 31 | (100 + noise % 30) << 23 | (noise >> 9);
  }
  const bool bf16 = dtype == DType::kBF16;
  const int mantissa_bits = bf16 ? 7 : 10;
  const uint32_t mantissa = noise >> 8 & ((1u << mantissa_bits) - 1);
  if (kind == 0) return sign << 15;
  if (kind == 1) return sign << 15 | mantissa;
  if (kind == 2 && non_finite && random() % 64 == 0) {
    return sign << 15 | (bf16 ? 0x7f80u : 0x7c00u) |
           (random() % 2 == 0 ? 0 : mantissa);
  }
  const uint32_t exponent = bf16 ? 100 + noise % 30 : 1 + noise % 20;
  return sign << 15 | exponent << mantissa_bits | mantissa;
}

void CheckRandomCase(const Kernels& kernels, const Case& c, bool non_finite,
                     std::mt19937_64& random) {
  std::vector<uint32_t> patterns(static_cast<size_t>(c.rows * c.cols));
  for (uint32_t& bits : patterns) {
    bits = RandomPattern(c.dtype, non_finite, random);
  }
  CheckCase(kernels, c, patterns);
}

}  // namespace

void CheckQuantisedHalves(const Kernels& kernels) {
  // Every value no larger than the block's largest, of every mantissa.
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const int mantissa_bits = dtype == DType::kBF16 ? 7 : 10;
    const uint32_t top = dtype == DType::kBF16 ? 254 : 30;
    const uint32_t step = dtype == DType::kBF16 ? 1 : 16;
    uint32_t exponent = top;
    for (uint32_t mantissa = 0; mantissa < 1u << mantissa_bits;
         mantissa += step) {
      const uint32_t largest = exponent << mantissa_bits | mantissa;
      std::vector<uint32_t> patterns;
      for (uint32_t bits = 0; bits <= largest; ++bits) {
        patterns.push_back(bits);
        patterns.push_back(bits | 0x8000u);
      }
      for (const ScaleRule rule : kRules) {
        CheckCase(kernels, OneBlock(dtype, rule, patterns.size()), patterns);
        if (::testing::Test::HasFatalFailure()) return;
      }
      // Through all exponents, in steps that have no divisor with them.
      exponent = exponent > 5 ? exponent - 5 : top - exponent;
    }
  }
}

void CheckQuantisedFloats(const Kernels& kernels) {
  // On and beside every value of the format and every midpoint, scaled.
  std::vector<double> boundaries;
  for (int unit = -9; unit <= 5; ++unit) {
    const int first = unit == -9 ? 0 : 16;
    for (int half = first; half <= 32; ++half) {
      boundaries.push_back(std::min(std::ldexp(half, unit - 1), 448.0));
    }
  }
  std::mt19937_64 random(20260822);
  for (int round = 0; round < 200; ++round) {
    const float amax =
        std::ldexp(1 + static_cast<float>(random() % (1 << 23)) / (1 << 23),
                   static_cast<int>(random() % 200) - 100);
    for (const ScaleRule rule : kRules) {
      const float scale = ExpectedScale(rule, static_cast<double>(amax));
      std::vector<uint32_t> patterns = {std::bit_cast<uint32_t>(amax)};
      for (const double boundary : boundaries) {
        const auto near = std::bit_cast<uint32_t>(
            static_cast<float>(boundary * static_cast<double>(scale)));
        for (uint32_t bits = near < 3 ? 0 : near - 3; bits <= near + 3;
             ++bits) {
          if (bits > patterns[0]) break;
          patterns.push_back(bits);
          patterns.push_back(bits | 0x80000000u);
        }
      }
      CheckCase(kernels, OneBlock(DType::kF32, rule, patterns.size()),
                patterns);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

void CheckQuantisedShapes(const Kernels& kernels) {
  constexpr uint64_t kSeed = 4711;
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  std::mt19937_64 random(kSeed);
  const int64_t edges[] = {1, 2, 63, 127, 128, 129, 200, 257};
  const auto any = [&](int64_t count) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(count));
  };
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int64_t rows : edges) {
      for (const int64_t cols : edges) {
        Case c;
        c.dtype = dtype;
        c.rows = rows;
        c.cols = cols;
        c.rule = kRules[any(2)];
        c.src_gap = any(3) * any(40);
        c.dst_gap = any(3) * any(40);
        c.scales_gap = any(2) * 4 * any(5);
        c.shift = any(2) * any(64);
        const int64_t schemes[][2] = {{128, 128},   {1, 128}, {1, cols},
                                      {rows, cols}, {3, 5},   {rows, 1},
                                      {1000, 1000}};
        const auto& scheme = schemes[any(std::size(schemes))];
        c.block_rows = scheme[0];
        c.block_cols = scheme[1];
        CheckRandomCase(kernels, c, any(2) == 0, random);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
    // Wider than what is worked on at once.
    Case wide;
    wide.dtype = dtype;
    wide.rows = 130;
    wide.cols = 128 * 20 + 7;
    CheckRandomCase(kernels, wide, false, random);
    wide.rows = 3;
    wide.cols = 40000;
    wide.block_rows = 1;
    wide.block_cols = 64;
    CheckRandomCase(kernels, wide, true, random);
    if (::testing::Test::HasFatalFailure()) return;
  }
  // Nothing to do, nothing touched.
  BlockQuantisation none;
  kernels.Quantise(none);
  none.rows = 7;
  kernels.Quantise(none);
}

void CheckQuantisedSpecials(const Kernels& kernels) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float max = std::numeric_limits<float>::max();
  const std::vector<std::vector<float>> blocks = {
      {0.0f},
      {0.0f, -0.0f, 0.0f},
      {tiny, -tiny, 1e-38f, -1e-39f, 0.0f},
      {1e-4f, -1e-4f, 5e-5f, 1e-7f},
      {std::nextafter(1e-4f, 0.0f), std::nextafter(1e-4f, 1.0f)},
      {max, -max, 1.0f, -0.0f, max / 448, max / 65536},
      {1.0f, kInfinity, -2.0f, -kInfinity, 0.0f, -0.0f, max},
      {1.0f, kNaN, -2.0f, -kNaN, kInfinity, 0.0f, -0.0f},
      {-kNaN},
      {-kInfinity, tiny}};
  for (const std::vector<float>& block : blocks) {
    std::vector<uint32_t> patterns;
    // Once short, once long enough for the vectors, the special ones between.
    for (const size_t count : {block.size(), size_t{300}}) {
      patterns.resize(count);
      for (size_t i = 0; i < count; ++i) {
        patterns[i] = std::bit_cast<uint32_t>(block[i * 7 % block.size()]);
      }
      for (const ScaleRule rule : kRules) {
        CheckCase(kernels, OneBlock(DType::kF32, rule, count), patterns);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
  // Only the block that holds it.
  Case c;
  c.rows = 4;
  c.cols = 300;
  c.block_rows = 2;
  std::vector<uint32_t> patterns(1200, 0x3f80);
  patterns[3 * 300 + 200] = 0x7fc0;
  patterns[10] = 0xff80;
  CheckCase(kernels, c, patterns);
}

}  // namespace weft::convert::testing
