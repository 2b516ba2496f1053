#include "weft/layout/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <limits>
#include <numeric>

namespace weft::layout {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(MeshTest, RankIsMixedRadixFastestFirst) {
  // Megatron's dense grid: rank = tp + TP*(cp + CP*(dp + DP*pp)).
  const Mesh mesh =
      Mesh::Make({{"tp", 2}, {"cp", 1}, {"dp", 3}, {"pp", 4}}).value();
  EXPECT_EQ(mesh.num_ranks(), 24);
  EXPECT_EQ(mesh.ToString(), "tp=2 cp=1 dp=3 pp=4");
  int64_t rank = 0;
  for (int64_t pp = 0; pp < 4; ++pp) {
    for (int64_t dp = 0; dp < 3; ++dp) {
      for (int64_t tp = 0; tp < 2; ++tp, ++rank) {
        EXPECT_EQ(mesh.Coordinate(rank, "tp"), tp) << rank;
        EXPECT_EQ(mesh.Coordinate(rank, "cp"), 0) << rank;
        EXPECT_EQ(mesh.Coordinate(rank, "dp"), dp) << rank;
        EXPECT_EQ(mesh.Coordinate(rank, "pp"), pp) << rank;
        EXPECT_EQ(mesh.Coordinate(rank, "ep"), 0) << rank;
      }
    }
  }
  EXPECT_EQ(mesh.Degree("dp"), 3);
  EXPECT_EQ(mesh.Degree("ep"), 1);
}

TEST(MeshTest, NoAxesIsOneRank) {
  const Mesh mesh = Mesh::Make({}).value();
  EXPECT_EQ(mesh.num_ranks(), 1);
  EXPECT_EQ(mesh.ToString(), "");
}

TEST(MeshTest, RefusesBadAxes) {
  const auto expect_refused = [](std::vector<MeshAxis> axes,
                                 const std::string& what) {
    const auto mesh = Mesh::Make(std::move(axes));
    ASSERT_EQ(mesh.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(mesh.status().message()), HasSubstr(what));
  };
  expect_refused({{"tp", 0}}, "\"tp\"");
  expect_refused({{"tp", -2}}, "-2");
  expect_refused({{"tp", 2}, {"dp", 1}, {"tp", 4}}, "twice");
  expect_refused({{"tp", int64_t{1} << 31}, {"dp", 2}}, "\"dp\"");
  expect_refused({{"tp", kMax}}, "ranks");
  EXPECT_TRUE(Mesh::Make({{"tp", int64_t{1} << 31}, {"dp", 1}}).ok());
}

using Ranges = std::vector<tensor::Range>;

Ranges Chunks(int64_t n, int64_t k) {
  Ranges ranges;
  for (int64_t r = 0; r < k; ++r) ranges.push_back(ChunkSplit(n, k, r));
  return ranges;
}

// formats.md 6, W14 and W16: what torch.chunk does.
TEST(ChunkSplitTest, GoldenTables) {
  EXPECT_EQ(Chunks(10, 4), (Ranges{{0, 3}, {3, 6}, {6, 9}, {9, 10}}));
  EXPECT_EQ(Chunks(5, 4), (Ranges{{0, 2}, {2, 4}, {4, 5}, {5, 5}}));
  EXPECT_EQ(
      Chunks(9, 8),
      (Ranges{{0, 2}, {2, 4}, {4, 6}, {6, 8}, {8, 9}, {9, 9}, {9, 9}, {9, 9}}));
  EXPECT_EQ(Chunks(1, 4), (Ranges{{0, 1}, {1, 1}, {1, 1}, {1, 1}}));
  EXPECT_EQ(Chunks(6, 2), (Ranges{{0, 3}, {3, 6}}));
  EXPECT_EQ(Chunks(0, 2), (Ranges{{0, 0}, {0, 0}}));
}

// W16, TP then FSDP on one dimension: 10 rows, dp=4, tp=2, in the order
// (dp,tp): 0-1, 5-6, 2-3, 7-8, 4, 9, empty, empty.
TEST(ChunkSplitTest, ChunkOfAChunk) {
  Ranges ranges;
  for (int64_t dp = 0; dp < 4; ++dp) {
    for (int64_t tp = 0; tp < 2; ++tp) {
      const tensor::Range outer = ChunkSplit(10, 2, tp);
      const tensor::Range inner = ChunkSplit(outer.extent(), 4, dp);
      ranges.push_back({outer.begin + inner.begin, outer.begin + inner.end});
    }
  }
  EXPECT_EQ(
      ranges,
      (Ranges{
          {0, 2}, {5, 7}, {2, 4}, {7, 9}, {4, 5}, {9, 10}, {5, 5}, {10, 10}}));
}

TEST(ChunkSplitTest, PartitionsInOrder) {
  ASSERT_TRUE(rc::check("ChunkSplit", [] {
    const auto n = *rc::gen::inRange<int64_t>(0, 200);
    const auto k = *rc::gen::inRange<int64_t>(1, 40);
    int64_t chunk = 0;
    while (chunk * k < n) ++chunk;
    int64_t next = 0;
    for (int64_t r = 0; r < k; ++r) {
      const tensor::Range range = ChunkSplit(n, k, r);
      RC_ASSERT(range.begin == next);
      RC_ASSERT(range.extent() == std::min(chunk, n - next));
      next = range.end;
    }
    RC_ASSERT(next == n);
  }));
}

TEST(ChunkSplitTest, DoesNotOverflow) {
  EXPECT_EQ(ChunkSplit(kMax, 2, 1), (tensor::Range{int64_t{1} << 62, kMax}));
  const int64_t k = (int64_t{1} << 62) + 1;
  EXPECT_EQ(ChunkSplit(kMax, k, k - 1), (tensor::Range{kMax, kMax}));
}

// W26-like: 8 layers over 4 stages; W7: 8 rows of gate over TP 2 and 4.
TEST(EvenSplitTest, GoldenTables) {
  EXPECT_EQ(EvenSplit(8, 4, 0).value(), (tensor::Range{0, 2}));
  EXPECT_EQ(EvenSplit(8, 4, 3).value(), (tensor::Range{6, 8}));
  EXPECT_EQ(EvenSplit(8, 2, 1).value(), (tensor::Range{4, 8}));
  EXPECT_EQ(EvenSplit(1, 1, 0).value(), (tensor::Range{0, 1}));
  EXPECT_EQ(EvenSplit(0, 4, 2).value(), (tensor::Range{0, 0}));
  EXPECT_EQ(EvenSplit(128256, 8, 7).value(), (tensor::Range{112224, 128256}));
  const int64_t large = int64_t{1} << 62;
  EXPECT_EQ(EvenSplit(large, 4, 3).value(),
            (tensor::Range{large / 4 * 3, large}));
}

TEST(EvenSplitTest, RefusesUnevenPartsAndMissingRanks) {
  const auto uneven = EvenSplit(10, 4, 0);
  EXPECT_EQ(uneven.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(uneven.status().message()), HasSubstr("10"));
  EXPECT_THAT(std::string(uneven.status().message()), HasSubstr("4"));
  for (const auto& [n, k, r] : std::vector<std::array<int64_t, 3>>{
           {8, 0, 0}, {8, -2, 0}, {8, 4, 4}, {8, 4, -1}, {-8, 4, 0}}) {
    EXPECT_FALSE(EvenSplit(n, k, r).ok()) << n << ' ' << k << ' ' << r;
  }
}

}  // namespace
}  // namespace weft::layout
