#include "weft/manifest/packed_bytes.h"

#include <gtest/gtest.h>

#include <iostream>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/manifest/placement.h"

namespace weft::manifest {
namespace {

std::string RandomBytes(std::mt19937_64& rng, size_t size) {
  std::string bytes(size, '\0');
  // Half of it repeats.
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = i % 64 < 32 ? 'a' : static_cast<char>(rng());
  }
  return bytes;
}

TEST(PackedBytesTest, WhatIsPackedComesBack) {
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 rng(seed);
  for (const size_t size : {0, 1, 2, 63, 1000, 100000}) {
    const std::string bytes = RandomBytes(rng, size);
    const auto back = UnpackBytes(PackBytes(bytes));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, bytes);
  }
}

TEST(PackedBytesTest, DamageIsRefusedAndNeverFollowed) {
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 rng(seed);
  const std::string bytes = RandomBytes(rng, 5000);
  const std::string packed = PackBytes(bytes);
  for (size_t size = 0; size < packed.size(); size += 1 + rng() % 97) {
    EXPECT_FALSE(UnpackBytes(packed.substr(0, size)).ok()) << size;
  }
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = packed;
    damaged[rng() % damaged.size()] ^= static_cast<char>(1 + rng() % 255);
    // A frame has no checksum: whoever unpacks compares a digest. What comes
    // back has the size that was claimed.
    const auto back = UnpackBytes(damaged);
    if (back.ok()) {
      EXPECT_EQ(back->size(), bytes.size());
    }
  }
  std::string huge = packed;
  huge[4 + 5] = 1;  // 2^40 bytes more
  EXPECT_EQ(UnpackBytes(huge).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// What `weft publish --layout hf` sends for a checkpoint like Kimi-K2's.
TEST(PackedBytesTest, AManifestOfSeventyThousandTensorsFitsAMegabyte) {
  Placement placement;
  placement.layout_spec = "hf";
  const auto add = [&](std::string name, const tensor::Shape& shape) {
    const auto tensor = static_cast<int32_t>(placement.tensors.size());
    placement.tensors.push_back({name, tensor::DType::kBF16, shape});
    layout::StoredTensor stored{
        std::move(name), tensor::DType::kBF16, shape, {}, {}};
    const tensor::Shape origin(shape.size(), 0);
    stored.fragments.push_back(
        {tensor, *layout::IndexMap::RowMajor(*tensor::Box::OfShape(shape),
                                             shape, origin)});
    placement.stored.push_back(std::move(stored));
  };
  for (int layer = 0; layer < 61; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    add(prefix + "input_layernorm.weight", {7168});
    add(prefix + "self_attn.q_a_proj.weight", {1536, 7168});
    add(prefix + "self_attn.kv_a_proj_with_mqa.weight", {576, 7168});
    add(prefix + "self_attn.o_proj.weight", {7168, 8192});
    for (int expert = 0; expert < 384; ++expert) {
      const std::string of = absl::StrCat(prefix, "mlp.experts.", expert, ".");
      add(of + "gate_proj.weight", {2048, 7168});
      add(of + "up_proj.weight", {2048, 7168});
      add(of + "down_proj.weight", {7168, 2048});
    }
  }
  ASSERT_GT(placement.tensors.size(), 70000u);
  const std::string bytes = EncodePlacement(placement);
  const std::string packed = PackBytes(bytes);
  std::cout << placement.tensors.size() << " tensors, " << bytes.size()
            << " bytes, packed " << packed.size() << "\n";
  EXPECT_LE(packed.size(), 1000000u);
  EXPECT_EQ(*UnpackBytes(packed), bytes);
}

}  // namespace
}  // namespace weft::manifest
