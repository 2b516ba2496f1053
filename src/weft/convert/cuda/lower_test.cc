// The lowering, by an interpreter of what it yields: the suite of all kernels,
// and programs of many parts.
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "weft/convert/cuda/lower_internal.h"
#include "weft/convert/cuda/testing/runner.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::cuda {
namespace {

class LowerTest : public ::testing::TestWithParam<CopyWay> {
 protected:
  std::unique_ptr<testing::Runner> runner_ = testing::MakeInterpreter();
  testing::RunnerKernels kernels_{*runner_, {GetParam()}};
};

TEST_P(LowerTest, ContiguousCopies) {
  convert::testing::CheckContiguousCopies(kernels_);
}
TEST_P(LowerTest, RandomCopies) {
  convert::testing::CheckRandomCopies(kernels_);
}
TEST_P(LowerTest, LargeCopies) { convert::testing::CheckLargeCopies(kernels_); }
TEST_P(LowerTest, Transforms) { convert::testing::CheckTransforms(kernels_); }
TEST_P(LowerTest, QuantisedShapes) {
  convert::testing::CheckQuantisedShapes(kernels_);
}
TEST_P(LowerTest, QuantisedEdges) {
  convert::testing::CheckQuantisedEdges(kernels_);
}
TEST_P(LowerTest, DigestRows) { convert::testing::CheckDigestRows(kernels_); }
TEST_P(LowerTest, DigestBands) { convert::testing::CheckDigestBands(kernels_); }

INSTANTIATE_TEST_SUITE_P(Ways, LowerTest,
                         ::testing::Values(CopyWay::kByCost, CopyWay::kEngines,
                                           CopyWay::kKernel));

std::byte* At(uintptr_t address) {
  return reinterpret_cast<std::byte*>(address);
}

Copy BytesCopy(std::initializer_list<CopyMode> modes) {
  Copy copy;
  copy.copy.src = At(0x10000000);
  copy.copy.dst = At(0x90000000);
  copy.copy.modes = modes;
  copy.copy.conversion = {tensor::DType::kU8, tensor::DType::kU8};
  return copy;
}

Lowered Lowering(const Copy& copy, CopyWay way) {
  ProgramSpec spec;
  spec.copies.push_back(copy);
  auto lowered = Lower(spec, {way}, Costs{});
  EXPECT_TRUE(lowered.ok()) << lowered.status();
  return lowered.ok() ? *std::move(lowered) : Lowered();
}

TEST(EngineTest, TakesLongRegularRows) {
  const Lowered rows =
      Lowering(BytesCopy({{1 << 18, 512, 256}, {256, 1, 1}}), CopyWay::kByCost);
  ASSERT_EQ(rows.engine.size(), 1u);
  EXPECT_EQ(rows.engine[0].width, 256);
  EXPECT_EQ(rows.engine[0].height, 1 << 18);
  EXPECT_EQ(rows.engine[0].src_pitch, 512);
  EXPECT_EQ(rows.engine[0].dst_pitch, 256);
  EXPECT_EQ(rows.info.tiles, 0);
  // The start of a 2-D copy costs more than the engine gains on 17 MB.
  EXPECT_TRUE(
      Lowering(BytesCopy({{1 << 16, 512, 256}, {256, 1, 1}}), CopyWay::kByCost)
          .engine.empty());
}

TEST(EngineTest, LeavesShortRowsAndSmallCopiesToTheKernel) {
  // Rows of 32 bytes, an engine's weakness; and copies that are over before
  // another one is submitted.
  EXPECT_TRUE(
      Lowering(BytesCopy({{1 << 20, 64, 32}, {32, 1, 1}}), CopyWay::kByCost)
          .engine.empty());
  EXPECT_TRUE(
      Lowering(BytesCopy({{4096, 1, 1}}), CopyWay::kByCost).engine.empty());
  EXPECT_EQ(
      Lowering(BytesCopy({{4096, 1, 1}}), CopyWay::kEngines).engine.size(), 1u);
}

TEST(EngineTest, SlicesAreWholePitchesApart) {
  const Lowered slices = Lowering(
      BytesCopy({{16, 1024 * 600, 512 * 600}, {500, 1024, 512}, {512, 1, 1}}),
      CopyWay::kEngines);
  ASSERT_EQ(slices.engine.size(), 1u);
  EXPECT_EQ(slices.engine[0].depth, 16);
  EXPECT_EQ(slices.engine[0].src_slice_rows, 600);
  // A slice that is not: one call each.
  EXPECT_EQ(Lowering(BytesCopy({{16, 1024 * 600 + 8, 512 * 600},
                                {500, 1024, 512},
                                {512, 1, 1}}),
                     CopyWay::kEngines)
                .engine.size(),
            16u);
}

TEST(EngineTest, RefusesPitchesThatTheRuntimeRefuses) {
  const int64_t pitch = int64_t{1} << 31;
  EXPECT_TRUE(Lowering(BytesCopy({{4, pitch, 1 << 20}, {1 << 20, 1, 1}}),
                       CopyWay::kEngines)
                  .engine.empty());
  // Rows that overlap at the source, and rows in reverse.
  EXPECT_TRUE(
      Lowering(BytesCopy({{4, 16, 256}, {256, 1, 1}}), CopyWay::kEngines)
          .engine.empty());
  EXPECT_TRUE(
      Lowering(BytesCopy({{4, 256, -256}, {256, 1, 1}}), CopyWay::kEngines)
          .engine.empty());
}

TEST(PiecesTest, ArePackedInTilesOfTheirBytes) {
  ProgramSpec spec;
  constexpr int kPieces = 1000;
  for (int i = 0; i < kPieces; ++i) {
    Copy copy = BytesCopy({{1024, 1, 1}});
    copy.copy.src += 4096 * i;
    copy.copy.dst += 2048 * i;
    spec.copies.push_back(copy);
  }
  const auto lowered =
      Lower(spec, {CopyWay::kKernel}, Costs{.has_bulk_copies = false});
  ASSERT_TRUE(lowered.ok()) << lowered.status();
  EXPECT_EQ(lowered->pieces.size(), kPieces);
  EXPECT_EQ(lowered->byte_tiles.size(), (kPieces + 31) / 32);
  // Four to a tile as bulk copies, and nothing left.
  const auto bulk = Lower(spec, {CopyWay::kKernel}, Costs{});
  ASSERT_TRUE(bulk.ok()) << bulk.status();
  EXPECT_TRUE(bulk->pieces.empty());
  EXPECT_EQ(bulk->bulk_tiles.size(), kPieces / 4);
}

TEST(PiecesTest, BulkPiecesAreCutAtLinesAndOthersStay) {
  ProgramSpec spec;
  const auto add = [&](uintptr_t src, uintptr_t dst, int64_t bytes) {
    Copy copy = BytesCopy({{bytes, 1, 1}});
    copy.copy.src = At(src);
    copy.copy.dst = At(dst);
    spec.copies.push_back(copy);
  };
  add(0x10000, 0x90030, 8192);   // begins in mid-line
  add(0x20001, 0xa0000, 1024);   // not aligned
  add(0x30000, 0xb0000, 240);    // short
  add(0x40000, 0xc0000, 16384);  // four tiles and a rest
  const auto lowered = Lower(spec, {CopyWay::kKernel}, Costs{});
  ASSERT_TRUE(lowered.ok()) << lowered.status();
  EXPECT_EQ(lowered->pieces.size(), 2u);
  int64_t bytes = 0;
  for (const Piece& piece : lowered->bulk_pieces) {
    bytes += piece.bytes;
    EXPECT_LE(piece.bytes, kBulkTileBytes);
    const auto end = reinterpret_cast<uintptr_t>(piece.dst + piece.bytes);
    EXPECT_TRUE(end % 128 == 0 || end == 0x90030 + 8192) << std::hex << end;
  }
  EXPECT_EQ(bytes, 8192 + 16384);
}

TEST(FaultsTest, AllAreNamedAtOnce) {
  ProgramSpec spec;
  spec.num_values = 3;
  Copy copy = BytesCopy({{-1, 1, 1}});
  spec.copies.push_back(copy);
  copy = BytesCopy({{64, 128, 128}, {128, 1, 1}});
  copy.copy.conversion = {tensor::DType::kF8E4M3, tensor::DType::kF32};
  copy.source_digest = DigestPlace{.first_value = 2};
  spec.copies.push_back(copy);
  Quantisation work;
  work.block.src_dtype = tensor::DType::kI8;
  spec.quantisations.push_back(work);
  Digest digest;
  digest.item_bytes = 3;
  spec.digests.push_back(digest);
  const absl::Status status = Lower(spec, {}, Costs{}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part :
       {"copy 0 has extent -1",
        "copy 1: ", "copy 1 needs digest values 2 to 4 of 3",
        "quantisation 0 is of I8", "digest 0 has items of 3 bytes"}) {
    EXPECT_NE(status.message().find(part), std::string::npos)
        << part << " in " << status;
  }
}

TEST(LoweredProgramTest, RandomPrograms) {
  testing::CheckRandomPrograms(*testing::MakeInterpreter(), 60);
}
TEST(LoweredProgramTest, RandomProgramsWithoutBulkCopies) {
  testing::CheckRandomPrograms(
      *testing::MakeInterpreter(Costs{.has_bulk_copies = false}), 60);
}
TEST(LoweredProgramTest, Pieces) {
  testing::CheckPieces(*testing::MakeInterpreter());
  testing::CheckPieces(
      *testing::MakeInterpreter(Costs{.has_bulk_copies = false}));
}
TEST(LoweredProgramTest, WideTranspositions) {
  testing::CheckWideTranspositions(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, DigestedCopies) {
  testing::CheckDigestedCopies(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, DigestedQuantisation) {
  testing::CheckDigestedQuantisation(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, StridedDigests) {
  testing::CheckStridedDigests(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, TransposedScales) {
  testing::CheckTransposedScales(*testing::MakeInterpreter());
}

}  // namespace
}  // namespace weft::convert::cuda
