// Examples computed by other programs: torch on a GPU, and by hand.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

using tensor::DType;
using tensor::ScaleRule;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

struct Block {
  uint32_t scale = 0;
  std::vector<uint8_t> codes;
};

// One block of f32, or of bf16 that hold the values exactly.
Block Quantise(const Kernels& kernels, ScaleRule rule,
               const std::vector<float>& values, DType dtype = DType::kBF16) {
  std::vector<std::byte> src;
  for (const float value : values) {
    auto bits = std::bit_cast<uint32_t>(value);
    if (dtype == DType::kBF16) {
      EXPECT_EQ(bits & 0xffffu, 0u) << value << " is no bf16";
      bits >>= 16;
    }
    for (int64_t i = 0; i < tensor::ItemBytes(dtype); ++i) {
      src.push_back(static_cast<std::byte>(bits >> (8 * i)));
    }
  }
  Block block;
  block.codes.resize(values.size());
  BlockQuantisation work;
  work.src = src.data();
  work.src_dtype = dtype;
  work.rows = 1;
  work.cols = static_cast<int64_t>(values.size());
  work.block_rows = 128;
  work.block_cols = 128;
  work.rule = rule;
  work.dst = reinterpret_cast<std::byte*>(block.codes.data());
  work.scales = reinterpret_cast<std::byte*>(&block.scale);
  kernels.Quantise(work);
  return block;
}

const float kMixed[] = {
    0.0f,     0.5f, -1.0f, 1.75f, 3.5f, 0.01300048828125f, -0.000701904296875f,
    2.203125f};
const std::vector<uint8_t> kMixedCodes = {0x00, 0x68, 0xf0, 0x76,
                                          0x7e, 0x3d, 0x9c, 0x79};

}  // namespace

void CheckQuantisedGolden(const Kernels& kernels) {
  std::vector<float> mixed(std::begin(kMixed), std::end(kMixed));
  for (const ScaleRule rule : {ScaleRule::kFloat, ScaleRule::kPowerOfTwo}) {
    const Block block = Quantise(kernels, rule, mixed);
    EXPECT_EQ(block.scale, 0x3c000000u);  // 2^-7
    EXPECT_THAT(block.codes, ElementsAreArray(kMixedCodes));
  }
  // Another largest element: the scale of the CUDA form, one unit in the last
  // place above that of a true division.
  mixed[4] = 3.0f;
  Block block = Quantise(kernels, ScaleRule::kFloat, mixed);
  EXPECT_EQ(block.scale, 0x3bdb6db8u);
  EXPECT_THAT(block.codes,
              ElementsAre(0x00, 0x69, 0xf1, 0x78, 0x7e, 0x40, 0x9d, 0x7a));
  block = Quantise(kernels, ScaleRule::kPowerOfTwo, mixed);
  EXPECT_EQ(block.scale, 0x3c000000u);
  EXPECT_THAT(block.codes,
              ElementsAre(0x00, 0x68, 0xf0, 0x76, 0x7c, 0x3d, 0x9c, 0x79));

  // Ties, which tell x * (1/s) from x / s and from x * (448/amax).
  struct Tie {
    float amax;
    float value;
    uint32_t scale;
    uint8_t code;
  };
  for (const Tie& tie : {Tie{0.96875f, 0.0908203125f, 0x3b0db6dcu, 0x62},
                         Tie{3.1875f, 2.390625f, 0x3be92493u, 0x7a},
                         Tie{0.5390625f, 0.404296875f, 0x3a9db6dcu, 0x7a}}) {
    block = Quantise(kernels, ScaleRule::kFloat, {tie.amax, tie.value});
    EXPECT_EQ(block.scale, tie.scale) << tie.amax;
    EXPECT_EQ(block.codes[1], tie.code) << tie.value;
  }

  // The rounding alone: the scale of 448 is 1.
  block = Quantise(kernels, ScaleRule::kFloat,
                   {447.0f, 448.0f, 17.0f, 18.0f, 19.0f, 0x1p-9f, 0x1p-10f,
                    0x1.8p-10f, 0.0175f, -0.0f},
                   DType::kF32);
  EXPECT_EQ(block.scale, 0x3f800000u);
  EXPECT_THAT(block.codes, ElementsAre(0x7e, 0x7e, 0x58, 0x59, 0x5a, 0x01, 0x00,
                                       0x01, 0x09, 0x80));

  // Quantising again keeps the values; the codes may be those of half the
  // scale.
  block =
      Quantise(kernels, ScaleRule::kPowerOfTwo, {0.4453125f, 0.10009765625f});
  EXPECT_EQ(block.scale, 0x3b000000u);  // 2^-9
  EXPECT_THAT(block.codes, ElementsAre(0x76, 0x65));
  block = Quantise(kernels, ScaleRule::kPowerOfTwo, {0.4375f, 0.1015625f});
  EXPECT_EQ(block.scale, 0x3a800000u);  // 2^-10
  EXPECT_THAT(block.codes, ElementsAre(0x7e, 0x6d));
}

// 130 x 200 has a grid of 2 x 2 scales; blocks that the edge cuts have the
// scale of what they hold, here 1 apart from the last element of the matrix.
void CheckQuantisedEdges(const Kernels& kernels) {
  std::vector<uint16_t> src(130 * 200, 0x3f80);  // 1.0
  src[129 * 200 + 199] = 0x4120;                 // 10.0
  std::vector<uint8_t> codes(src.size());
  uint32_t scales[5] = {0, 0, 0, 0, 0xabcdu};
  BlockQuantisation work;
  work.src = reinterpret_cast<const std::byte*>(src.data());
  work.src_stride_bytes = 400;
  work.rows = 130;
  work.cols = 200;
  work.rule = ScaleRule::kPowerOfTwo;
  work.dst = reinterpret_cast<std::byte*>(codes.data());
  work.dst_stride_bytes = 200;
  work.scales = reinterpret_cast<std::byte*>(scales);
  work.scales_stride_bytes = 8;
  kernels.Quantise(work);
  // 1/448 rounded up is 2^-8, 10/448 is 2^-5.
  EXPECT_THAT(scales, ElementsAre(119u << 23, 119u << 23, 119u << 23,
                                  122u << 23, 0xabcdu));
  EXPECT_EQ(codes[127 * 200 + 128], 0x78);  // 256
  EXPECT_EQ(codes[128 * 200 + 127], 0x78);
  EXPECT_EQ(codes[128 * 200 + 128], 0x60);  // 32
  EXPECT_EQ(codes[129 * 200 + 199], 0x7a);  // 320
}

}  // namespace weft::convert::testing
