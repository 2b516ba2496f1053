#include "weft/manifest/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "weft/manifest/binding.h"

namespace weft::manifest {
namespace {

using ::testing::HasSubstr;

tensor::Box BoxOf(std::initializer_list<tensor::Range> ranges) {
  return *tensor::Box::Make(std::vector<tensor::Range>(ranges));
}

// Two ranks' worth of shapes: an interleaved q, a padded embedding, an empty
// shard.
Placement Example() {
  Placement placement;
  placement.layout_spec = "megatron:tp=2";
  placement.rank = 1;
  placement.num_ranks = 2;
  placement.tensors = {{"q", tensor::DType::kBF16, {8, 4}},
                       {"embed", tensor::DType::kF32, {5, 2}},
                       {"norm", tensor::DType::kBF16, {3}}};
  layout::StoredTensor qkv{"qkv", tensor::DType::kBF16, {8, 4}, {}, {}};
  qkv.fragments.push_back(
      {0, *layout::IndexMap::Make(BoxOf({{0, 8}, {0, 4}}),
                                  {{{2, 4}, {2, 16}, {2, 8}}, {{4, 1}}}, 0)});
  layout::StoredTensor embed{"embed", tensor::DType::kF32, {4, 2}, {}, {}};
  embed.fragments.push_back({1, *layout::IndexMap::RowMajor(
                                    BoxOf({{3, 5}, {0, 2}}), {4, 2}, {0, 0})});
  embed.zero_fill.push_back(BoxOf({{2, 4}, {0, 2}}));
  layout::StoredTensor empty{"norm", tensor::DType::kBF16, {0}, {}, {}};
  placement.stored = {qkv, embed, empty};
  return placement;
}

TEST(Placement, EncodesAndDecodesToTheSameValueAndBytes) {
  const Placement placement = Example();
  const std::string bytes = EncodePlacement(placement);
  const auto decoded = DecodePlacement(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, placement);
  EXPECT_EQ(EncodePlacement(*decoded), bytes);
}

TEST(Placement, ExampleIsAValidTarget) {
  const absl::Status status = CheckPlacement(Example(), /*is_target=*/true);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(Placement, EveryTruncationIsDataLossAndNoneCrashes) {
  const std::string bytes = EncodePlacement(Example());
  for (size_t kept = 0; kept < bytes.size(); ++kept) {
    const auto decoded =
        DecodePlacement(std::string_view(bytes).substr(0, kept));
    ASSERT_TRUE(absl::IsDataLoss(decoded.status()) ||
                absl::IsUnimplemented(decoded.status()))
        << kept << " bytes: " << decoded.status();
  }
  EXPECT_TRUE(absl::IsDataLoss(DecodePlacement(bytes + "x").status()));
}

TEST(Placement, RandomlyDamagedBytesNeverDecodeToAnUnencodableValue) {
  const std::string bytes = EncodePlacement(Example());
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = bytes;
    for (int flips = 0; flips < 3; ++flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const auto decoded = DecodePlacement(damaged);
    if (!decoded.ok()) continue;
    const auto again = DecodePlacement(EncodePlacement(*decoded));
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(*again, *decoded);
  }
}

TEST(Placement, DigestDependsOnEveryPart) {
  const LayoutDigest base = DigestOf(EncodePlacement(Example()));
  Placement other = Example();
  other.rank = 0;
  EXPECT_NE(DigestOf(EncodePlacement(other)), base);
  other = Example();
  other.stored[0].name = "qkw";
  EXPECT_NE(DigestOf(EncodePlacement(other)), base);
  other = Example();
  other.tensors[1].shape = {5, 3};
  EXPECT_NE(DigestOf(EncodePlacement(other)), base);
}

// SHA-256 of "abc", FIPS 180-2 appendix B.1.
TEST(LayoutDigest, IsSha256) {
  EXPECT_EQ(DigestOf("abc").ToHex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(CheckPlacement, ReportsAllFaultsAtOnce) {
  Placement placement = Example();
  placement.rank = 2;                           // not below num_ranks
  placement.tensors[2].name = "embed";          // twice
  placement.stored[0].fragments[0].tensor = 9;  // no such tensor
  placement.stored[1].zero_fill.clear();        // a hole
  const absl::Status status = CheckPlacement(placement, /*is_target=*/true);
  ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("rank 2"));
  EXPECT_THAT(message, HasSubstr("\"embed\" is listed twice"));
  EXPECT_THAT(message, HasSubstr("refers to logical tensor 9"));
  EXPECT_THAT(message, HasSubstr("\"embed\""));
}

TEST(CheckPlacement, ASourceMayHaveHolesATargetMayNot) {
  Placement placement = Example();
  placement.stored[1].zero_fill.clear();
  EXPECT_TRUE(CheckPlacement(placement, /*is_target=*/false).ok());
  EXPECT_FALSE(CheckPlacement(placement, /*is_target=*/true).ok());
}

Binding ExampleBinding() {
  Binding binding;
  binding.rank = 3;
  binding.host_id = "host";
  binding.process_id = 42;
  binding.addresses = {{"shm", "a"}, {"ucx", std::string("\0\1", 2)}};
  binding.buffers = {{1024, {{"shm", "k0"}}}, {256, {{"shm", "k1"}}}};
  binding.stored = {{0, 0}, {0, 512}};
  binding.control_buffer = 1;
  binding.epoch_word_offset_bytes = 0;
  binding.digest_table_offset_bytes = 64;
  binding.digest_table_bytes = 192;
  return binding;
}

TEST(Binding, RoundTrips) {
  const std::string bytes = EncodeBinding(ExampleBinding());
  const auto decoded = DecodeBinding(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(EncodeBinding(*decoded), bytes);
  EXPECT_EQ(decoded->stored[1].offset_bytes, 512);
}

TEST(Binding, RefusesWhatLiesOutsideItsBuffers) {
  Binding binding = ExampleBinding();
  binding.stored[1].buffer = 7;
  binding.stored[0].offset_bytes = 4096;
  binding.digest_table_bytes = 193;
  const auto decoded = DecodeBinding(EncodeBinding(binding));
  ASSERT_TRUE(absl::IsDataLoss(decoded.status())) << decoded.status();
  const std::string message(decoded.status().message());
  EXPECT_THAT(message, HasSubstr("buffer 7"));
  EXPECT_THAT(message, HasSubstr("byte 4096"));
  EXPECT_THAT(message, HasSubstr("digest table"));
}

TEST(Binding, EveryTruncationIsRefused) {
  const std::string bytes = EncodeBinding(ExampleBinding());
  for (size_t kept = 0; kept < bytes.size(); ++kept) {
    EXPECT_FALSE(DecodeBinding(std::string_view(bytes).substr(0, kept)).ok());
  }
}

}  // namespace
}  // namespace weft::manifest
