#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

using tensor::DType;
using tensor::Transform;

template <typename From, typename To>
std::vector<To> Convert(const Kernels& kernels,
                        const tensor::Conversion& conversion,
                        const std::vector<From>& values) {
  std::vector<To> result(values.size());
  StridedCopy copy;
  copy.src = reinterpret_cast<const std::byte*>(values.data());
  copy.dst = reinterpret_cast<std::byte*>(result.data());
  copy.modes = {
      {static_cast<int64_t>(values.size()), sizeof(From), sizeof(To)}};
  copy.conversion = conversion;
  kernels.Copy(copy);
  return result;
}

// In the widest format there is, rounded to f32 once.
float Expected(Transform transform, float value) {
  const auto wide = static_cast<long double>(value);
  if (transform == Transform::kNegExp) {
    return static_cast<float>(-std::exp(wide));
  }
  return static_cast<float>(transform == Transform::kPlusOne ? wide + 1
                                                             : wide - 1);
}

}  // namespace

void CheckTransforms(const Kernels& kernels) {
  std::vector<uint32_t> floats;
  for (uint32_t i = 0; i < 1u << 16; ++i) {
    floats.push_back(i << 16);
    floats.push_back(i * 65521u);
  }
  for (const Transform transform :
       {Transform::kNegExp, Transform::kPlusOne, Transform::kMinusOne}) {
    const auto got = Convert<uint32_t, uint32_t>(
        kernels, {DType::kF32, DType::kF32, transform}, floats);
    // A cast of the result, as the other suite has checked it.
    const auto halves = Convert<uint32_t, uint16_t>(
        kernels, {DType::kF32, DType::kBF16, transform}, floats);
    const auto casted =
        Convert<uint32_t, uint16_t>(kernels, {DType::kF32, DType::kBF16}, got);
    EXPECT_EQ(halves, casted);
    for (size_t i = 0; i < floats.size(); ++i) {
      const float value = std::bit_cast<float>(floats[i]);
      if (std::isnan(value)) {
        ASSERT_EQ(got[i], floats[i] | 0x00400000u);
        continue;
      }
      ASSERT_EQ(got[i], std::bit_cast<uint32_t>(Expected(transform, value)))
          << tensor::TransformName(transform) << " of " << value;
    }
  }
  // From what a checkpoint holds.
  const std::vector<uint16_t> logs = {0x0000, 0x3f80, 0xc000, 0xff80};
  const auto a = Convert<uint16_t, uint32_t>(
      kernels, {DType::kBF16, DType::kF32, Transform::kNegExp}, logs);
  EXPECT_EQ(a, (std::vector<uint32_t>{0xbf800000u, 0xc02df854u, 0xbe0a9555u,
                                      0x80000000u}));
}

}  // namespace weft::convert::testing
