#include "weft/plan/explain_tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "weft/layout/index_map.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kRows = 12;
constexpr int64_t kCols = 6;

// One stored tensor that holds rows or columns [begin, end) of "w".
manifest::Placement Part(const std::string& stored_name, int dim, int64_t begin,
                         int64_t end, int64_t rank, int64_t num_ranks,
                         int64_t padding_rows = 0) {
  manifest::Placement placement;
  placement.layout_spec = dim == 0 ? "rows" : "columns";
  placement.rank = rank;
  placement.num_ranks = num_ranks;
  placement.tensors = {{"w", tensor::DType::kBF16, {kRows, kCols}}};
  const tensor::Box box =
      tensor::Box::OfShape({kRows, kCols}).value().WithRange(dim, {begin, end});
  layout::StoredTensor stored;
  stored.name = stored_name;
  stored.dtype = tensor::DType::kBF16;
  stored.shape = {box.extent(0) + padding_rows, box.extent(1)};
  stored.fragments.push_back(
      {0, layout::IndexMap::RowMajor(box, stored.shape, {0, 0}).value()});
  if (padding_rows > 0) {
    stored.zero_fill.push_back(
        tensor::Box::OfShape(stored.shape)
            .value()
            .WithRange(0, {box.extent(0), stored.shape[0]}));
  }
  placement.stored.push_back(std::move(stored));
  return placement;
}

// Rows over three trainer ranks; columns over two engine ranks, padded.
struct Fleet {
  Fleet() {
    for (int64_t r = 0; r < 3; ++r) {
      sources.push_back(Part("shard", 0, 4 * r, 4 * r + 4, r, 3));
    }
    for (int64_t r = 0; r < 2; ++r) {
      targets.push_back(Part("fused.w", 1, 3 * r, 3 * r + 3, r, 2, 1));
    }
    std::vector<SourceInfo> infos;
    for (const auto& source : sources) {
      infos.push_back(
          {&source, manifest::DigestOf(manifest::EncodePlacement(source)), 0});
    }
    index = SourceIndex::Make(std::move(infos)).value();
    for (const auto& target : targets) {
      plans.push_back(BuildCompactPlan(
                          *index, target,
                          manifest::DigestOf(manifest::EncodePlacement(target)),
                          {})
                          .value());
    }
  }
  std::vector<manifest::Placement> sources;
  std::vector<manifest::Placement> targets;
  std::shared_ptr<const SourceIndex> index;
  std::vector<CompactPlan> plans;
};

TEST(ExplainTensorTest, EveryBoxWithItsSource) {
  const Fleet fleet;
  const auto parts =
      ExplainTensor(fleet.plans, fleet.targets, *fleet.index, "w");
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 6u);
  std::map<std::pair<int64_t, int64_t>, const TensorPart*> by_ranks;
  for (const TensorPart& part : *parts) {
    by_ranks[{part.dst_rank, part.src_rank}] = &part;
  }
  for (int64_t dst = 0; dst < 2; ++dst) {
    for (int64_t src = 0; src < 3; ++src) {
      const TensorPart& part = *by_ranks.at({dst, src});
      EXPECT_EQ(part.box.range(0), (tensor::Range{4 * src, 4 * src + 4}));
      EXPECT_EQ(part.box.range(1), (tensor::Range{3 * dst, 3 * dst + 3}));
      EXPECT_EQ(part.dst_stored, "fused.w");
      EXPECT_EQ(part.src_stored, "shard");
      EXPECT_EQ(part.bytes, 4 * 3 * 2);
      EXPECT_EQ(part.num_runs, 1);
      EXPECT_EQ(part.contiguous_bytes, 3 * 2);
    }
  }
}

TEST(ExplainTensorTest, AStoredTensorHasItsPadding) {
  const Fleet fleet;
  const auto parts =
      ExplainTensor(fleet.plans, fleet.targets, *fleet.index, "fused.w");
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(parts->size(), 8u);
  int64_t zeros = 0;
  for (const TensorPart& part : *parts) {
    if (part.src_rank >= 0) continue;
    ++zeros;
    EXPECT_EQ(part.bytes, 3 * 2);
    EXPECT_EQ(part.box.range(0), (tensor::Range{kRows, kRows + 1}));
  }
  EXPECT_EQ(zeros, 2);
}

TEST(ExplainTensorTest, AnUnknownNameListsNearOnes) {
  const Fleet fleet;
  const auto parts =
      ExplainTensor(fleet.plans, fleet.targets, *fleet.index, "x.w");
  EXPECT_EQ(parts.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(parts.status().message()), HasSubstr("\"fused.w\""));
  const auto stored =
      ExplainTensor(fleet.plans, fleet.targets, *fleet.index, "fused.w");
  EXPECT_FALSE(
      DrawTensor(*stored, fleet.targets, *fleet.index, "fused.w").ok());
}

TEST(DrawTensorTest, ARectangleForEachPartOnBothSides) {
  const Fleet fleet;
  const auto parts =
      ExplainTensor(fleet.plans, fleet.targets, *fleet.index, "w");
  const auto svg = DrawTensor(*parts, fleet.targets, *fleet.index, "w");
  ASSERT_TRUE(svg.ok()) << svg.status();
  size_t rectangles = 0;
  for (size_t at = 0; (at = svg->find("<rect x=", at)) != std::string::npos;
       ++at) {
    ++rectangles;
  }
  EXPECT_EQ(rectangles, 3u + 6u);
  EXPECT_THAT(*svg, HasSubstr("w [12, 6] BF16"));
  EXPECT_THAT(*svg, HasSubstr("1 &lt;- 2"));
  EXPECT_THAT(*svg, Not(HasSubstr("nan")));
  // The second engine rank's part of the last source: the lower right corner.
  EXPECT_THAT(*svg,
              HasSubstr("<rect x='600' y='376' width='180' height='160'"));
}

}  // namespace
}  // namespace weft::plan
