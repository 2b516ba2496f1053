#include "plain_quantise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "scalar_cast.h"
#include "stand_in_step.h"
#include "weft/base/status.h"
#include "weft/tensor/conversion.h"

namespace weft::apps {
namespace {

constexpr int kCodes = 0x7f;  // finite magnitudes of e4m3fn: 0 ... 448

std::array<float, kCodes> Magnitudes() {
  std::array<float, kCodes> values{};
  for (int code = 0; code < kCodes; ++code) {
    const int exponent = code >> 3;
    const auto mantissa = static_cast<float>(code & 7);
    values[static_cast<std::size_t>(code)] =
        exponent == 0 ? std::ldexp(mantissa, -9)
                      : std::ldexp(8 + mantissa, exponent - 10);
  }
  return values;
}

// The nearest code, ties to the even one; beyond the largest, the largest.
uint8_t ToE4m3(float value) {
  static const std::array<float, kCodes> kMagnitudes = Magnitudes();
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  const float magnitude = std::fabs(value);
  const auto above =
      std::lower_bound(kMagnitudes.begin(), kMagnitudes.end(), magnitude);
  if (above == kMagnitudes.end()) return sign | (kCodes - 1);
  auto code = static_cast<int>(above - kMagnitudes.begin());
  if (code > 0) {
    // Exact: both are multiples of the smaller one's last place.
    const float up = *above - magnitude;
    const float down = magnitude - *(above - 1);
    if (down < up || (down == up && (code & 1) != 0)) --code;
  }
  return sign | static_cast<uint8_t>(code);
}

float ScaleOf(float amax, tensor::ScaleRule rule) {
  const float scale =
      std::max(amax, 1e-4f) * std::bit_cast<float>(uint32_t{0x3B124925});
  if (rule == tensor::ScaleRule::kFloat || !std::isfinite(scale)) return scale;
  int exponent = 0;
  const float half = std::frexp(scale, &exponent);
  return std::ldexp(1.0f, half == 0.5f ? exponent - 1 : exponent);
}

absl::StatusOr<std::vector<float>> ValuesOf(
    const tensor::TensorSpec& matrix, const checkpoint::Checkpoint& checkpoint,
    int64_t step) {
  WEFT_ASSIGN_OR_RETURN(const absl::Span<const std::byte> data,
                        checkpoint.Data(matrix.name));
  const auto item = static_cast<std::size_t>(tensor::ItemBytes(matrix.dtype));
  std::vector<std::byte> items(data.begin(), data.end());
  StepItems(matrix.dtype, 0, /*from_step=*/0, step, absl::MakeSpan(items));
  std::vector<float> values(items.size() / item);
  const tensor::Conversion widen{matrix.dtype, tensor::DType::kF32};
  for (std::size_t i = 0; i < values.size(); ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, items.data() + i * item, item);
    values[i] = std::bit_cast<float>(CastBits(widen, bits));
  }
  return values;
}

}  // namespace

absl::StatusOr<PlainQuantised> QuantisePlainly(
    const tensor::TensorSpec& matrix, const tensor::ScaleScheme& scheme,
    const checkpoint::Checkpoint& checkpoint, int64_t step) {
  WEFT_ASSIGN_OR_RETURN(const tensor::Shape grid,
                        tensor::ScaleShape(scheme, matrix.shape));
  const absl::Status readable =
      tensor::CheckSupported({matrix.dtype, tensor::DType::kF32});
  if (!readable.ok()) return base::Annotate(readable, matrix.name);
  WEFT_ASSIGN_OR_RETURN(const std::vector<float> values,
                        ValuesOf(matrix, checkpoint, step));
  const tensor::Shape block = tensor::BlockShape(scheme, matrix.shape);
  const int64_t columns = matrix.shape[1];
  const auto block_of = [&](std::size_t i) {
    const auto at = static_cast<int64_t>(i);
    return static_cast<std::size_t>(at / columns / block[0] * grid[1] +
                                    at % columns / block[1]);
  };
  PlainQuantised result;
  result.scales.resize(static_cast<std::size_t>(grid[0] * grid[1]));
  for (std::size_t i = 0; i < values.size(); ++i) {
    float& amax = result.scales[block_of(i)];
    // A NaN stays, whatever comes after it.
    if (!(std::fabs(values[i]) <= amax) && !std::isnan(amax)) {
      amax = std::fabs(values[i]);
    }
  }
  for (float& scale : result.scales) {
    scale = std::isnan(scale) ? std::numeric_limits<float>::quiet_NaN()
                              : ScaleOf(scale, scheme.rule);
  }
  result.elements.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    result.elements.push_back(
        ToE4m3(values[i] * (1.0f / result.scales[block_of(i)])));
  }
  return result;
}

}  // namespace weft::apps
