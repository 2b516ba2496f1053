#include "weft/convert/transform.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace weft::convert {

float ApplyTransform(tensor::Transform transform, float value) {
  if (std::isnan(value)) {
    constexpr uint32_t kQuietBit = 0x00400000u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | kQuietBit);
  }
  switch (transform) {
    case tensor::Transform::kNone:
      return value;
    case tensor::Transform::kNegExp:
      return static_cast<float>(-std::exp(static_cast<double>(value)));
    case tensor::Transform::kPlusOne:
      return value + 1.0f;
    case tensor::Transform::kMinusOne:
      return value - 1.0f;
  }
  return value;
}

}  // namespace weft::convert
