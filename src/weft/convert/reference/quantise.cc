#include "weft/convert/reference/quantise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "weft/convert/reference/element.h"

namespace weft::convert::reference {
namespace {

constexpr float kLeastAmax = 1e-4f;
// fl32(1/448).
constexpr float kScaleOfOne = 0x1.24924ap-9f;
constexpr int kLargestCode = 126;  // 448; 127 is NaN
constexpr int kSignCode = 128;

// The value of a code without sign: four bits of exponent (bias 7) and three
// of mantissa; exponent 0 has no hidden bit.
double Value(int code) {
  const int exponent = code / 8;
  const double mantissa = code % 8;
  return exponent == 0 ? std::ldexp(mantissa, -6 - 3)
                       : std::ldexp(8 + mantissa, exponent - 7 - 3);
}

// The code nearest to `magnitude`; of two equally near the even one.
int NearestCode(double magnitude) {
  static const auto* const values = [] {
    auto* const all = new std::array<double, kLargestCode + 1>;
    for (int code = 0; code <= kLargestCode; ++code) {
      (*all)[static_cast<size_t>(code)] = Value(code);
    }
    return all;
  }();
  int nearest = 0;
  double least = magnitude;
  for (int code = 1; code <= kLargestCode; ++code) {
    const double distance =
        std::fabs((*values)[static_cast<size_t>(code)] - magnitude);
    if (distance < least || (distance == least && code % 2 == 0)) {
      nearest = code;
      least = distance;
    }
  }
  return nearest;
}

float ElementAt(const BlockQuantisation& work, int64_t row, int64_t col) {
  float value = 0;
  ConvertElement({work.src_dtype, tensor::DType::kF32},
                 work.src + row * work.src_stride_bytes +
                     col * tensor::ItemBytes(work.src_dtype),
                 reinterpret_cast<std::byte*>(&value));
  return value;
}

float ScaleOf(tensor::ScaleRule rule, float amax) {
  if (std::isnan(amax)) return std::numeric_limits<float>::quiet_NaN();
  if (std::isinf(amax)) return amax;
  const float scale = std::max(amax, kLeastAmax) * kScaleOfOne;
  if (rule == tensor::ScaleRule::kFloat) return scale;
  int exponent = 0;
  const float mantissa = std::frexp(scale, &exponent);  // [0.5, 1)
  return std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
}

void QuantiseBlock(const BlockQuantisation& work, int64_t block_row,
                   int64_t block_col) {
  const int64_t row_begin = block_row * work.block_rows;
  const int64_t col_begin = block_col * work.block_cols;
  const int64_t row_end = std::min(row_begin + work.block_rows, work.rows);
  const int64_t col_end = std::min(col_begin + work.block_cols, work.cols);
  float amax = 0;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t col = col_begin; col < col_end; ++col) {
      const float magnitude = std::fabs(ElementAt(work, row, col));
      if (!(magnitude <= amax)) amax = magnitude;
      if (std::isnan(amax)) break;
    }
    if (std::isnan(amax)) break;
  }
  const float scale = ScaleOf(work.rule, amax);
  std::memcpy(work.scales + block_row * work.scales_stride_bytes +
                  block_col * static_cast<int64_t>(sizeof(float)),
              &scale, sizeof(float));
  const float inverse = 1.0f / scale;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t col = col_begin; col < col_end; ++col) {
      const float value = ElementAt(work, row, col);
      const float scaled = value * inverse;
      int code = std::isnan(scaled)
                     ? kLargestCode + 1
                     : NearestCode(std::fabs(static_cast<double>(scaled)));
      if (std::signbit(value)) code += kSignCode;
      work.dst[row * work.dst_stride_bytes + col] =
          static_cast<std::byte>(code);
    }
  }
}

}  // namespace

void QuantiseBlocks(const BlockQuantisation& work) {
  for (int64_t row = 0; row * work.block_rows < work.rows; ++row) {
    for (int64_t col = 0; col * work.block_cols < work.cols; ++col) {
      QuantiseBlock(work, row, col);
    }
  }
}

void DequantiseMxfp4(const Mxfp4Blocks& work) {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  constexpr int64_t kElements = 32;
  for (int64_t i = 0; i < work.num_blocks * kElements; ++i) {
    const auto byte = static_cast<unsigned>(work.blocks[i / 2]);
    const unsigned code = i % 2 == 0 ? byte % 16 : byte / 16;
    const int exponent = static_cast<int>(work.scales[i / kElements]) - 127;
    const float magnitude = std::ldexp(kMagnitudes[code % 8], exponent);
    const float value = code >= 8 ? -magnitude : magnitude;
    ConvertElement({tensor::DType::kF32, tensor::DType::kBF16},
                   reinterpret_cast<const std::byte*>(&value),
                   work.dst + 2 * i);
  }
}

}  // namespace weft::convert::reference
