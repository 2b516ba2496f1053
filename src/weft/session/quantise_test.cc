// Refits into block FP8: from trainers that hold bf16 or f32, that quantise
// what they hold whole, or not; into fused matrices, column cuts and scales in
// several layouts. Expected bytes come from a plain quantiser below, written
// from the published rule and applied to a plain function of the index.
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/plan/stages.h"
#include "weft/session/publisher.h"
#include "weft/session/receiver.h"
#include "weft/session/testing/fake_gpus.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using tensor::Box;
using tensor::DType;
using tensor::Range;
using testing::MakeTransport;
using testing::Trainer;
using Rng = std::mt19937_64;

base::Deadline Soon() { return base::Deadline::After(std::chrono::minutes(2)); }

int64_t Pick(Rng& rng, int64_t low, int64_t high) {
  return low +
         static_cast<int64_t>(rng() % static_cast<uint64_t>(high - low + 1));
}

float RoundToBf16(float value) {
  auto bits = std::bit_cast<uint32_t>(value);
  bits += 0x7fff + ((bits >> 16) & 1);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

// Element (row, col) of matrix `tensor` at `step`, as a trainer of f32 masters
// holds it; the model's value is that rounded to bf16.
float ValueOf(int32_t tensor, int64_t row, int64_t col, uint64_t step) {
  uint64_t mixed = (static_cast<uint64_t>(tensor) * 7919 +
                    static_cast<uint64_t>(row) * 104729 +
                    static_cast<uint64_t>(col) * 1299709 + step * 15485863) *
                   0x9e3779b97f4a7c15u;
  mixed ^= mixed >> 29;
  mixed *= 0xbf58476d1ce4e5b9u;
  const double unit = static_cast<double>(mixed >> 11) * 0x1p-53;  // [0, 1)
  // Rows of very different size, so that blocks have scales of their own.
  const double size = std::ldexp(1.0, static_cast<int>((row / 100) % 7) - 5);
  return static_cast<float>((unit * 2 - 1) * size);
}

// All finite magnitudes of e4m3fn, by their code.
float MagnitudeOf(int code) {
  const int exponent = code >> 3;
  const int mantissa = code & 7;
  return exponent == 0
             ? std::ldexp(static_cast<float>(mantissa), -9)
             : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

uint8_t ToE4m3(float value) {
  const float magnitude = std::fabs(value);
  int best = 0;
  for (int code = 1; code < 0x7f; ++code) {
    const float nearer = std::fabs(MagnitudeOf(code) - magnitude);
    const float known = std::fabs(MagnitudeOf(best) - magnitude);
    if (nearer < known || (nearer == known && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(value) ? 0x80 : 0));
}

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
};

// A block of scheme `block` (0 = all) along an extent.
int64_t BlockOf(int64_t block, int64_t extent) {
  return block == 0 ? extent : block;
}
int64_t BlocksIn(int64_t block, int64_t extent) {
  return (extent + BlockOf(block, extent) - 1) / BlockOf(block, extent);
}

struct Quantised {
  std::vector<uint8_t> elements;
  std::vector<float> scales;
};

Quantised QuantisePlainly(int32_t tensor, const Matrix& matrix,
                          const tensor::ScaleScheme& scheme, uint64_t step) {
  Quantised out;
  const int64_t across = BlocksIn(scheme.block_cols, matrix.cols);
  out.scales.resize(
      static_cast<size_t>(BlocksIn(scheme.block_rows, matrix.rows) * across));
  const auto block_of = [&](int64_t row, int64_t col) {
    return static_cast<size_t>(row / BlockOf(scheme.block_rows, matrix.rows) *
                                   across +
                               col / BlockOf(scheme.block_cols, matrix.cols));
  };
  const auto value = [&](int64_t row, int64_t col) {
    return RoundToBf16(ValueOf(tensor, row, col, step));
  };
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.cols; ++c) {
      float& amax = out.scales[block_of(r, c)];
      amax = std::max(amax, std::fabs(value(r, c)));
    }
  }
  for (float& scale : out.scales) {
    scale = std::max(scale, 1e-4f) * std::bit_cast<float>(0x3B124925u);
    if (scheme.rule == tensor::ScaleRule::kPowerOfTwo) {
      int exponent = 0;
      const float mantissa = std::frexp(scale, &exponent);  // [0.5, 1)
      scale = std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
    }
  }
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.cols; ++c) {
      const float scale = out.scales[block_of(r, c)];
      out.elements.push_back(ToE4m3(value(r, c) * (1.0f / scale)));
    }
  }
  return out;
}

layout::StoredTensor Stored(std::string name, DType dtype, int64_t rows,
                            int64_t cols) {
  return {std::move(name), dtype, {rows, cols}, {}, {}};
}

void Put(layout::StoredTensor& stored, int32_t tensor, Range rows, Range cols,
         int64_t at_row) {
  const Range ranges[] = {rows, cols};
  const int64_t origin[] = {at_row, 0};
  stored.fragments.push_back(
      {tensor,
       *layout::IndexMap::RowMajor(*Box::Make(ranges), stored.shape, origin)});
}

// The blocks that elements lie in.
Range BlocksOf(const Range& elements, int64_t block, int64_t extent) {
  const int64_t size = BlockOf(block, extent);
  return {elements.begin / size, (elements.end + size - 1) / size};
}

// One world: matrices (tensor i), their scales (tensor n + i).
struct World {
  std::vector<Matrix> matrices;
  tensor::ScaleScheme scheme;
  DType held = DType::kBF16;  // by the trainers
  bool trainers_quantise = false;
  int64_t num_trainers = 1;

  manifest::Placement Base(std::string spec, int64_t rank,
                           int64_t ranks) const {
    manifest::Placement placement;
    placement.layout_spec = std::move(spec);
    placement.rank = rank;
    placement.num_ranks = ranks;
    const auto n = static_cast<int32_t>(matrices.size());
    for (int32_t i = 0; i < n; ++i) {
      placement.tensors.push_back({absl::StrCat("m", i, ".weight"),
                                   DType::kBF16,
                                   {matrices[i].rows, matrices[i].cols}});
    }
    for (int32_t i = 0; i < n; ++i) {
      placement.tensors.push_back(
          {absl::StrCat("m", i, ".weight_scale_inv"),
           DType::kF32,
           {BlocksIn(scheme.block_rows, matrices[i].rows),
            BlocksIn(scheme.block_cols, matrices[i].cols)}});
      placement.scaled.push_back({i, n + i, scheme});
    }
    return placement;
  }
};

World RandomWorld(Rng& rng) {
  World world;
  const int64_t cols = Pick(rng, 1, 3) * 128 + (Pick(rng, 0, 1) ? 0 : 40);
  for (int64_t i = Pick(rng, 1, 3); i > 0; --i) {
    world.matrices.push_back({Pick(rng, 1, 4) * 128, cols});
  }
  // The last of a fused matrix may end in a ragged block.
  world.matrices.back().rows += Pick(rng, 0, 1) * Pick(rng, 1, 127);
  if (Pick(rng, 0, 1)) world.scheme.rule = tensor::ScaleRule::kPowerOfTwo;
  // Blocks, one scale a row, and one a matrix.
  const int64_t kind = Pick(rng, 0, 4);
  if (kind == 0) world.scheme.block_rows = 1;
  if (kind == 1) world.scheme.block_rows = 0;
  if (kind <= 1) world.scheme.block_cols = 0;
  if (Pick(rng, 0, 2) == 0) world.held = DType::kF32;
  world.trainers_quantise = Pick(rng, 0, 1);
  world.num_trainers = Pick(rng, 1, 4);
  return world;
}

// Rows of each matrix, cut as torch.chunk cuts: through blocks.
manifest::Placement TrainerShard(const World& world, int64_t rank) {
  manifest::Placement placement =
      world.Base("chunks", rank, world.num_trainers);
  for (size_t i = 0; i < world.matrices.size(); ++i) {
    const Matrix& matrix = world.matrices[i];
    const int64_t chunk =
        (matrix.rows + world.num_trainers - 1) / world.num_trainers;
    const Range rows{std::min(matrix.rows, rank * chunk),
                     std::min(matrix.rows, (rank + 1) * chunk)};
    layout::StoredTensor stored = Stored(absl::StrCat("shard", i), world.held,
                                         rows.extent(), matrix.cols);
    if (rows.extent() > 0) {
      Put(stored, static_cast<int32_t>(i), rows, {0, matrix.cols}, 0);
    }
    placement.stored.push_back(std::move(stored));
  }
  if (!world.trainers_quantise) placement.scaled.clear();
  return placement;
}

// Every matrix one below the other, one tensor parallel share of its rows or
// columns, in whole blocks. Scales row-major, or column-major with padding.
struct Target {
  manifest::Placement placement;
  std::vector<Range> rows, cols;  // by matrix
  bool transposed = false;
};

Target RandomTarget(const World& world, Rng& rng) {
  Target target;
  target.placement = world.Base("fused", 0, 1);
  target.transposed = Pick(rng, 0, 1);
  const bool by_columns = Pick(rng, 0, 1);
  const int64_t cols_cut = Pick(rng, 0, (world.matrices[0].cols - 1) / 128);
  int64_t num_rows = 0;
  int64_t num_blocks = 0;
  Range cols{0, world.matrices[0].cols};
  if (by_columns) cols.begin = cols_cut * 128;
  for (const Matrix& matrix : world.matrices) {
    Range rows{0, matrix.rows};
    if (!by_columns) {
      rows.begin = Pick(rng, 0, (matrix.rows - 1) / 128) * 128;
    }
    target.rows.push_back(rows);
    target.cols.push_back(cols);
    num_rows += rows.extent();
    num_blocks += BlocksOf(rows, world.scheme.block_rows, matrix.rows).extent();
  }
  const Range block_columns =
      BlocksOf(cols, world.scheme.block_cols, world.matrices[0].cols);
  const int64_t block_cols = block_columns.extent();
  layout::StoredTensor weight =
      Stored("fused.weight", DType::kF8E4M3, num_rows, cols.extent());
  const int64_t pitch = (num_blocks + 3) / 4 * 4;
  layout::StoredTensor scales =
      target.transposed
          ? Stored("fused.scales", DType::kF32, block_cols, pitch)
          : Stored("fused.scales", DType::kF32, num_blocks, block_cols);
  if (target.transposed && pitch > num_blocks) {
    const Range pad[] = {{0, block_cols}, {num_blocks, pitch}};
    scales.zero_fill.push_back(*Box::Make(pad));
  }
  int64_t at = 0;
  int64_t at_block = 0;
  for (size_t i = 0; i < world.matrices.size(); ++i) {
    const auto tensor = static_cast<int32_t>(i);
    const auto scale_tensor = static_cast<int32_t>(world.matrices.size() + i);
    Put(weight, tensor, target.rows[i], target.cols[i], at);
    const Range block_rows = BlocksOf(target.rows[i], world.scheme.block_rows,
                                      world.matrices[i].rows);
    if (target.transposed) {
      const Range ranges[] = {block_rows, block_columns};
      scales.fragments.push_back(
          {scale_tensor,
           *layout::IndexMap::Make(
               *Box::Make(ranges),
               {{{block_rows.extent(), 1}}, {{block_columns.extent(), pitch}}},
               at_block)});
    } else {
      Put(scales, scale_tensor, block_rows, block_columns, at_block);
    }
    at += target.rows[i].extent();
    at_block += block_rows.extent();
  }
  target.placement.stored.push_back(std::move(weight));
  target.placement.stored.push_back(std::move(scales));
  return target;
}

void FillTrainer(const World& world, const manifest::Placement& placement,
                 const RankMemory& memory, uint64_t step) {
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    if (placement.stored[i].fragments.empty()) continue;
    const layout::Fragment& fragment = placement.stored[i].fragments[0];
    const Box& box = fragment.map.box();
    std::byte* out = StoredBase(memory, i);
    for (int64_t r = box.range(0).begin; r < box.range(0).end; ++r) {
      for (int64_t c = 0; c < box.extent(1); ++c) {
        const float value = ValueOf(fragment.tensor, r, c, step);
        const uint32_t bits = std::bit_cast<uint32_t>(
            world.held == DType::kF32 ? value : RoundToBf16(value));
        if (world.held == DType::kF32) {
          std::memcpy(out, &bits, 4);
          out += 4;
        } else {
          const auto half = static_cast<uint16_t>(bits >> 16);
          std::memcpy(out, &half, 2);
          out += 2;
        }
      }
    }
  }
}

// The target's two stored tensors as they must be.
std::pair<std::string, std::string> Expected(const World& world,
                                             const Target& target,
                                             uint64_t step) {
  std::string elements;
  const layout::StoredTensor& scales = target.placement.stored[1];
  std::vector<float> scale_values(
      static_cast<size_t>(scales.shape[0] * scales.shape[1]), 0.0f);
  int64_t at_block = 0;
  for (size_t i = 0; i < world.matrices.size(); ++i) {
    const Matrix& matrix = world.matrices[i];
    const Quantised whole =
        QuantisePlainly(static_cast<int32_t>(i), matrix, world.scheme, step);
    const Range& cols = target.cols[i];
    for (int64_t r = target.rows[i].begin; r < target.rows[i].end; ++r) {
      for (int64_t c = cols.begin; c < cols.end; ++c) {
        elements.push_back(static_cast<char>(
            whole.elements[static_cast<size_t>(r * matrix.cols + c)]));
      }
    }
    const Range block_rows =
        BlocksOf(target.rows[i], world.scheme.block_rows, matrix.rows);
    const Range block_columns =
        BlocksOf(cols, world.scheme.block_cols, matrix.cols);
    const int64_t across = BlocksIn(world.scheme.block_cols, matrix.cols);
    for (int64_t r = block_rows.begin; r < block_rows.end; ++r, ++at_block) {
      for (int64_t c = block_columns.begin; c < block_columns.end; ++c) {
        const int64_t column = c - block_columns.begin;
        const int64_t place = target.transposed
                                  ? column * scales.shape[1] + at_block
                                  : at_block * scales.shape[1] + column;
        scale_values[static_cast<size_t>(place)] =
            whole.scales[static_cast<size_t>(r * across + c)];
      }
    }
  }
  return {elements,
          std::string(reinterpret_cast<const char*>(scale_values.data()),
                      scale_values.size() * sizeof(float))};
}

std::string BytesOf(const manifest::Placement& placement,
                    const RankMemory& memory, size_t stored) {
  return std::string(
      reinterpret_cast<const char*>(StoredBase(memory, stored)),
      static_cast<size_t>(*StoredBytes(placement.stored[stored])));
}

class QuantiseTest : public ::testing::TestWithParam<std::string> {
 protected:
  void StartTrainers(const World& world) {
    for (int64_t rank = 0; rank < world.num_trainers; ++rank) {
      Trainer& trainer = trainers_.emplace_back();
      trainer.placement = TrainerShard(world, rank);
      trainer.owned = testing::AllocateUnder(GetParam(), trainer.placement,
                                             testing::kTrainerGpu);
      PublisherOptions options;
      options.device = testing::FakeGpuOptions();
      options.model = "m";
      options.placement = trainer.placement;
      options.memory = trainer.owned.memory;
      options.catalog = store_;
      options.num_threads = 2;
      options.transports.push_back(
          MakeTransport(GetParam(), testing::kTrainerGpu));
      auto publisher = Publisher::Create(std::move(options), Soon());
      ASSERT_TRUE(publisher.ok()) << publisher.status();
      trainer.publisher = *std::move(publisher);
    }
  }

  void PublishAll(const World& world, uint64_t step) {
    for (Trainer& trainer : trainers_) {
      ASSERT_TRUE(trainer.publisher->BeginUpdate(Soon()).ok());
      FillTrainer(world, trainer.placement, trainer.owned.memory, step);
      const auto report = trainer.publisher->Publish(step, Soon());
      ASSERT_TRUE(report.ok()) << report.status();
    }
  }

  std::unique_ptr<Receiver> StartReceiver(const Target& target,
                                          const OwnedRankMemory& owned,
                                          int64_t staging_bytes,
                                          int num_threads = 2,
                                          bool shadow = false) {
    ReceiverOptions options;
    if (shadow) options.mode = ReceiveMode::kShadow;
    options.resume = true;
    options.execute.device = testing::FakeGpuOptions();
    options.model = "m";
    options.placement = target.placement;
    options.memory = owned.memory;
    options.catalog = store_;
    options.transports.push_back(
        MakeTransport(GetParam(), testing::kEngineGpu));
    options.execute.num_threads = num_threads;
    options.limits.staging_bytes = staging_bytes;
    options.measure_bound = false;
    auto receiver = Receiver::Create(std::move(options), Soon());
    EXPECT_TRUE(receiver.ok()) << receiver.status();
    return receiver.ok() ? *std::move(receiver) : nullptr;
  }

  std::shared_ptr<catalog::CatalogStore> store_ = catalog::MakeMemoryStore({});
  std::vector<Trainer> trainers_;
};

TEST_P(QuantiseTest, RandomWorldsArriveAsThePlainQuantiserSays) {
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  Rng rng(seed);
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(absl::StrCat("seed ", seed, ", round ", round));
    trainers_.clear();
    store_ = catalog::MakeMemoryStore({});
    const World world = RandomWorld(rng);
    const Target target = RandomTarget(world, rng);
    ASSERT_NO_FATAL_FAILURE(StartTrainers(world));
    const OwnedRankMemory owned = testing::AllocateUnder(
        GetParam(), target.placement, testing::kEngineGpu);
    // From room for one block a round to room for all.
    const int64_t staging =
        int64_t{1} << Pick(rng, world.scheme.block_rows == 0 ? 21 : 16, 22);
    // With three and more, rounds take turns.
    const auto num_threads = static_cast<int>(Pick(rng, 1, 4));
    const bool shadow = Pick(rng, 0, 1) == 1;
    const std::unique_ptr<Receiver> receiver =
        StartReceiver(target, owned, staging, num_threads, shadow);
    ASSERT_NE(receiver, nullptr);
    for (uint64_t step = 1; step <= 2; ++step) {
      ASSERT_NO_FATAL_FAILURE(PublishAll(world, step));
      std::memset(owned.buffer->data(), 0xA5, owned.buffer->span().size());
      const auto report = receiver->Refit(nullptr, true, Soon());
      ASSERT_TRUE(report.ok()) << report.status();
      const auto [elements, scales] = Expected(world, target, step);
      EXPECT_TRUE(BytesOf(target.placement, owned.memory, 0) == elements);
      EXPECT_TRUE(BytesOf(target.placement, owned.memory, 1) == scales);
      // Padding is filled, not moved.
      int64_t num_scales = 0;
      for (const layout::Fragment& fragment :
           target.placement.stored[1].fragments) {
        num_scales += fragment.map.box().num_elements();
      }
      const auto element_bytes = static_cast<int64_t>(elements.size());
      EXPECT_EQ(report->bytes, element_bytes + 4 * num_scales);
      StoredBase(owned.memory, 0)[Pick(rng, 0, elements.size() - 1)] ^=
          std::byte{1};
      const auto again = receiver->Refit(nullptr, false, Soon());
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_TRUE(BytesOf(target.placement, owned.memory, 0) == elements);
      EXPECT_TRUE(BytesOf(target.placement, owned.memory, 1) == scales);
      EXPECT_EQ(again->bytes + again->bytes_resumed, report->bytes);
      EXPECT_EQ(again->digest, report->digest);
    }
  }
}

TEST_P(QuantiseTest, WhatTrainersQuantiseCrossesTheWireAsFp8) {
  World world;
  world.matrices = {{512, 256}};
  world.trainers_quantise = true;
  world.num_trainers = 2;  // 256 rows each: whole blocks
  StartTrainers(world);
  PublishAll(world, 1);
  Rng rng(1);
  Target target;
  target.placement = world.Base("fused", 0, 1);
  target.rows = {{0, 512}};
  target.cols = {{0, 256}};
  layout::StoredTensor weight = Stored("w", DType::kF8E4M3, 512, 256);
  Put(weight, 0, {0, 512}, {0, 256}, 0);
  layout::StoredTensor scales = Stored("s", DType::kF32, 4, 2);
  Put(scales, 1, {0, 4}, {0, 2}, 0);
  target.placement.stored = {weight, scales};
  const OwnedRankMemory owned =
      testing::AllocateUnder(GetParam(), target.placement, testing::kEngineGpu);
  const auto receiver = StartReceiver(target, owned, 1 << 20);
  const auto report = receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes, 512 * 256 + 4 * 2 * 4);
  EXPECT_EQ(report->quantise_seconds, 0);
  EXPECT_EQ(receiver->plan()->totals.src_bytes, 512 * 256 + 4 * 2 * 4);
}

TEST_P(QuantiseTest, AnotherRuleOfTheTrainersIsNotTakenForOurs) {
  World world;
  world.matrices = {{300, 130}};
  world.trainers_quantise = true;
  world.scheme.rule = tensor::ScaleRule::kPowerOfTwo;
  StartTrainers(world);
  PublishAll(world, 1);
  world.scheme.rule = tensor::ScaleRule::kFloat;
  Rng rng(7);
  const Target target = RandomTarget(world, rng);
  const OwnedRankMemory owned =
      testing::AllocateUnder(GetParam(), target.placement, testing::kEngineGpu);
  const auto receiver = StartReceiver(target, owned, 1 << 20);
  const auto report = receiver->Refit(nullptr, true, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  const auto [elements, scales] = Expected(world, target, 1);
  EXPECT_TRUE(BytesOf(target.placement, owned.memory, 0) == elements);
  EXPECT_TRUE(BytesOf(target.placement, owned.memory, 1) == scales);
}

// Scales of a trainer that holds FP8 itself are any numbers: taken for powers
// of two, they would lose their mantissas on the way into E8M0.
TEST(QuantisePlanTest, ScalesOfAnFp8TrainerAreNoPowersOfTwo) {
  const auto placement = [](DType dtype, DType scales_dtype) {
    manifest::Placement result;
    result.layout_spec = "test";
    result.num_ranks = 1;
    result.tensors = {{"w", dtype, {128, 128}}, {"s", DType::kF32, {1, 1}}};
    layout::StoredTensor weight = Stored("w", DType::kF8E4M3, 128, 128);
    Put(weight, 0, {0, 128}, {0, 128}, 0);
    layout::StoredTensor scales = Stored("s", scales_dtype, 1, 1);
    Put(scales, 1, {0, 1}, {0, 1}, 0);
    result.stored = {weight, scales};
    return result;
  };
  const manifest::Placement source = placement(DType::kF8E4M3, DType::kF32);
  const auto index = *plan::SourceIndex::Make(
      {{.placement = &source, .digest = manifest::DigestOf("source")}});
  for (const auto rule :
       {tensor::ScaleRule::kFloat, tensor::ScaleRule::kPowerOfTwo}) {
    const bool is_float = rule == tensor::ScaleRule::kFloat;
    manifest::Placement target =
        placement(DType::kBF16, is_float ? DType::kF32 : DType::kF8E8M0);
    target.scaled = {{0, 1, {128, 128, rule}}};
    const auto staged = *plan::StageTarget(*index, target, {});
    const auto built =
        plan::BuildStagedPlan(*index, staged.placement, staged.steps,
                              manifest::DigestOf("target"), {});
    EXPECT_EQ(built.ok(), is_float) << built.status();
  }
}

TEST_P(QuantiseTest, ABlockThatStagingCannotHoldIsRefusedWithItsSize) {
  World world;
  world.matrices = {{128, 128}};
  StartTrainers(world);
  PublishAll(world, 1);
  Rng rng(3);
  const Target target = RandomTarget(world, rng);
  const OwnedRankMemory owned =
      testing::AllocateUnder(GetParam(), target.placement, testing::kEngineGpu);
  const auto receiver = StartReceiver(target, owned, 32768);
  const auto report = receiver->Refit(nullptr, true, Soon());
  EXPECT_EQ(report.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(report.status().message().find("32768 bytes of staging"),
            std::string::npos)
      << report.status();
}

INSTANTIATE_TEST_SUITE_P(Transports, QuantiseTest,
                         ::testing::Values("inproc", "shm", "ucx", "cuda",
                                           "gpu_ucx", "gpu_host"),
                         [](const auto& each) { return each.param; });

}  // namespace
}  // namespace weft::session
