#include "weft/layout/run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>

#include "weft/layout/testing/oracle.h"

namespace weft::layout {
namespace {

using testing::AnyMap;
using testing::AnyModes;
using testing::Describe;
using testing::MapParts;
using testing::PairsOf;
using testing::Point;
using testing::Table;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

tensor::Box MakeBox(std::vector<tensor::Range> ranges) {
  return tensor::Box::Make(ranges).value();
}

IndexMap MakeMap(std::vector<tensor::Range> ranges, std::vector<DimModes> modes,
                 int64_t offset = 0) {
  return IndexMap::Make(MakeBox(std::move(ranges)), std::move(modes), offset)
      .value();
}

// { (src(x), dst(x)) } by the formula, as a sorted list.
using Pairs = std::vector<std::pair<int64_t, int64_t>>;

Pairs ExpectedPairs(const MapParts& src, const MapParts& dst) {
  Pairs pairs;
  const std::map<Point, int64_t> dst_table = Table(dst);
  for (const auto& [x, src_offset] : Table(src)) {
    const auto it = dst_table.find(x);
    if (it != dst_table.end()) pairs.push_back({src_offset, it->second});
  }
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

Pairs ActualPairs(const std::vector<Run>& runs) {
  const auto by_src = PairsOf(runs);
  Pairs pairs(by_src.begin(), by_src.end());
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

void CheckShape(const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    for (std::size_t k = 0; k < run.modes.size(); ++k) {
      const RunMode& mode = run.modes[k];
      RC_ASSERT(mode.extent > 1);
      RC_ASSERT(mode.src_stride >= 0 && mode.dst_stride >= 0);
      if (k + 1 == run.modes.size()) continue;
      const RunMode& inner = run.modes[k + 1];
      RC_ASSERT(!(mode.src_stride == inner.extent * inner.src_stride &&
                  mode.dst_stride == inner.extent * inner.dst_stride));
      if (mode.src_stride == 1 && mode.dst_stride == 1) {
        RC_ASSERT(run.modes.back().src_stride == 1 &&
                  run.modes.back().dst_stride == 1);
      }
    }
  }
}

void CheckCommonRuns(const MapParts& src, const MapParts& dst) {
  RC_LOG() << "src " << Describe(src) << '\n'
           << "dst " << Describe(dst) << '\n';
  const auto runs = CommonRuns(src.Made(), dst.Made(), kNoLimit);
  RC_ASSERT(runs.ok());
  RC_LOG() << Describe(*runs) << '\n';
  const Pairs expected = ExpectedPairs(src, dst);
  RC_ASSERT(ActualPairs(*runs) == expected);
  CheckShape(*runs);
  // Deterministic, and the limit is exact.
  const auto count = static_cast<int64_t>(runs->size());
  const auto again = CommonRuns(src.Made(), dst.Made(), count);
  RC_ASSERT(again.ok() && *again == *runs);
  if (count > 0) {
    RC_ASSERT(CommonRuns(src.Made(), dst.Made(), count - 1).status().code() ==
              absl::StatusCode::kResourceExhausted);
  }
}

TEST(CommonRunsTest, EqualsTheFormulaOnRandomMaps) {
  ASSERT_TRUE(rc::check("rank 0 to 3", [] {
    const int rank = *rc::gen::inRange(0, 4);
    CheckCommonRuns(AnyMap(rank, 12, 3), AnyMap(rank, 12, 3));
  }));
}

// Long digits along one dimension: blocks that nest, do not nest, are out of
// phase, and repeat often enough to be folded.
TEST(CommonRunsTest, EqualsTheFormulaOnDeepDigits) {
  ASSERT_TRUE(rc::check(
      "rank 1", [] { CheckCommonRuns(AnyMap(1, 400, 9), AnyMap(1, 400, 9)); }));
}

MapParts Blocks(int64_t begin, DimModes modes) {
  int64_t extent = 1;
  for (const Mode& mode : modes) extent *= mode.extent;
  return {MakeBox({{begin, begin + extent}}), {std::move(modes)}, 0};
}

TEST(CommonRunsTest, EqualsTheFormulaOnBlocks) {
  ASSERT_TRUE(rc::check("two or three levels of blocks", [] {
    const auto any = [](const std::vector<int64_t>& extents) {
      return *rc::gen::elementOf(extents);
    };
    const auto blocks = [&any] {
      DimModes modes = {{any({2, 3, 4, 5, 6, 8, 12}), 1}};
      modes.push_back({any({2, 3, 10, 25, 70}), any({7, 13, 40})});
      if (*rc::gen::arbitrary<bool>()) modes.push_back({any({2, 3}), 5000});
      return Blocks(*rc::gen::inRange<int64_t>(0, 14), std::move(modes));
    };
    CheckCommonRuns(blocks(), blocks());
  }));
}

std::vector<Run> Runs(const IndexMap& src, const IndexMap& dst) {
  return CommonRuns(src, dst, 1000).value();
}

TEST(CommonRunsTest, WholeTensorIsOneFlatRun) {
  const IndexMap map = IndexMap::RowMajor(MakeBox({{0, 4}, {0, 6}, {0, 8}}),
                                          {4, 6, 8}, {0, 0, 0})
                           .value();
  const auto runs = Runs(map, map);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].ToString(), "src 0 dst 0 (192:1>1)");
  EXPECT_EQ(runs[0].num_elements(), 192);
  EXPECT_EQ(runs[0].contiguous_elements(), 192);
}

// A vocabulary of 128256 rows cut by columns: two modes, not a run a row.
TEST(CommonRunsTest, ColumnCutIsOneRunOfTwoModes) {
  const int64_t rows = 128256;
  const IndexMap src =
      IndexMap::RowMajor(MakeBox({{0, rows}, {0, 4096}}), {rows, 4096}, {0, 0})
          .value();
  const IndexMap dst = IndexMap::RowMajor(MakeBox({{0, rows}, {1024, 2048}}),
                                          {rows, 1024}, {0, 0})
                           .value();
  const auto runs = CommonRuns(src, dst, 1).value();
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].ToString(), "src 1024 dst 0 (128256:4096>1024)(1024:1>1)");
}

// Row chunks of a column shard (formats.md W15): one run a source.
TEST(CommonRunsTest, UnevenChunksIntoColumns) {
  const IndexMap dst =
      IndexMap::RowMajor(MakeBox({{0, 10}, {4, 8}}), {10, 4}, {0, 0}).value();
  const std::vector<std::string> expected = {
      "src 4 dst 0 (3:8>4)(4:1>1)", "src 4 dst 12 (3:8>4)(4:1>1)",
      "src 4 dst 24 (3:8>4)(4:1>1)", "src 4 dst 36 (4:1>1)"};
  for (int64_t r = 0; r < 4; ++r) {
    const int64_t end = std::min<int64_t>(10, 3 * r + 3);
    const IndexMap src = IndexMap::RowMajor(MakeBox({{3 * r, end}, {0, 8}}),
                                            {end - 3 * r, 8}, {0, 0})
                             .value();
    const auto runs = Runs(src, dst);
    ASSERT_EQ(runs.size(), 1u);
    EXPECT_EQ(runs[0].ToString(), expected[r]);
  }
}

TEST(CommonRunsTest, EmptyShardsHaveNoRuns) {
  const IndexMap whole =
      IndexMap::RowMajor(MakeBox({{0, 5}, {0, 8}}), {5, 8}, {0, 0}).value();
  const IndexMap tail =
      IndexMap::RowMajor(MakeBox({{5, 5}, {0, 8}}), {0, 8}, {0, 0}).value();
  EXPECT_TRUE(Runs(tail, whole).empty());
  EXPECT_TRUE(Runs(whole, tail).empty());
  EXPECT_TRUE(CommonRuns(whole, tail, 0)->empty());
}

// q of Megatron's linear_qkv: G groups of n*D rows, each followed by k and v,
// into HF order and out of it.
TEST(CommonRunsTest, QueryGroupsAreOneRun) {
  const int64_t groups = 8, n = 4, d = 128, h = 4096;
  const IndexMap merged =
      MakeMap({{0, groups * n * d}, {0, h}},
              {{{n * d, h}, {groups, (n + 2) * d * h}}, {{h, 1}}});
  const IndexMap plain = MakeMap({{0, groups * n * d}, {0, h}},
                                 {{{groups * n * d, h}}, {{h, 1}}}, 77);
  const auto in = CommonRuns(plain, merged, 1).value();
  ASSERT_EQ(in.size(), 1u);
  EXPECT_EQ(in[0].ToString(), "src 77 dst 0 (8:2097152>3145728)(2097152:1>1)");
  const auto out = CommonRuns(merged, plain, 1).value();
  EXPECT_EQ(out[0].ToString(), "src 0 dst 77 (8:3145728>2097152)(2097152:1>1)");
}

// The same groups, cut by columns: three modes.
TEST(CommonRunsTest, QueryGroupsCutByColumnsAreOneRunOfThreeModes) {
  const IndexMap merged =
      MakeMap({{0, 24}, {0, 16}}, {{{6, 16}, {4, 160}}, {{16, 1}}});
  const IndexMap columns =
      IndexMap::RowMajor(MakeBox({{0, 24}, {8, 12}}), {24, 4}, {0, 0}).value();
  const auto runs = CommonRuns(merged, columns, 1).value();
  EXPECT_EQ(runs[0].ToString(), "src 8 dst 0 (4:160>24)(6:16>4)(4:1>1)");
}

// A cut through the groups: the rest of the first, whole groups, the begin of
// the last, however many groups there are.
TEST(CommonRunsTest, CutThroughGroupsIsThreeRuns) {
  const int64_t groups = 1 << 20;
  const IndexMap merged = MakeMap({{0, 6 * groups}}, {{{6, 1}, {groups, 10}}});
  const IndexMap part = MakeMap({{3, 6 * groups - 2}}, {{{6 * groups - 5, 1}}});
  const auto runs = CommonRuns(merged, part, 3).value();
  ASSERT_EQ(runs.size(), 3u);
}

// Blocks of 6 against blocks of 24 that begin inside one of them: only the
// blocks that are really cut become shorter, and equal ones fold.
TEST(CommonRunsTest, BlocksOutOfPhaseKeepTheirLength) {
  const IndexMap sixes = MakeMap({{0, 246}}, {{{6, 1}, {41, 10}}});
  const IndexMap large = MakeMap({{3, 243}}, {{{24, 1}, {10, 31}}});
  const auto runs = CommonRuns(sixes, large, 3).value();
  std::map<int64_t, int64_t> elements_by_length;
  for (const layout::Run& run : runs) {
    elements_by_length[run.contiguous_elements()] += run.num_elements();
  }
  // Of each 24: 3 at both ends and three whole blocks between.
  EXPECT_EQ(elements_by_length,
            (std::map<int64_t, int64_t>{{3, 60}, {6, 180}}));
}

// Blocks that do not nest: the pattern of one common period, repeated.
TEST(CommonRunsTest, BlocksThatDoNotNestRepeatByTheirCommonPeriod) {
  const int64_t periods = 1 << 16;  // of 12 rows
  const IndexMap sixes =
      MakeMap({{0, 12 * periods}}, {{{6, 1}, {2 * periods, 10}}});
  const IndexMap fours =
      MakeMap({{0, 12 * periods}}, {{{4, 1}, {3 * periods, 9}}});
  const auto runs = CommonRuns(sixes, fours, 4).value();
  int64_t elements = 0;
  int64_t shortest = kNoLimit;
  for (const layout::Run& run : runs) {
    elements += run.num_elements();
    shortest = std::min(shortest, run.contiguous_elements());
  }
  EXPECT_EQ(elements, 12 * periods);
  EXPECT_EQ(shortest, 2);  // the rows at which both agree: 0,4,6,8,12
}

// Interleaved gate and up: stride 2 on the source side.
TEST(CommonRunsTest, InterleaveIsOneStridedRun) {
  const IndexMap gate = MakeMap({{0, 512}, {0, 64}}, {{{512, 128}}, {{64, 1}}});
  const IndexMap half = MakeMap({{0, 512}, {0, 64}}, {{{512, 64}}, {{64, 1}}});
  EXPECT_EQ(CommonRuns(gate, half, 1)->front().ToString(),
            "src 0 dst 0 (512:128>64)(64:1>1)");
  // Pairs (2i, 2i+1) into two halves: one digit of extent 2.
  const IndexMap halves = MakeMap({{0, 1024}}, {{{2, 512}, {512, 1}}});
  const IndexMap line = MakeMap({{0, 1024}}, {{{1024, 1}}});
  EXPECT_EQ(CommonRuns(line, halves, 1)->front().ToString(),
            "src 0 dst 0 (2:1>512)(512:2>1)");
}

TEST(CommonRunsTest, TransposeIsOneRunWithTheDestinationInside) {
  const IndexMap rows = MakeMap({{0, 6}, {0, 4}}, {{{6, 4}}, {{4, 1}}});
  const IndexMap columns = MakeMap({{0, 6}, {0, 4}}, {{{6, 1}}, {{4, 6}}});
  const auto runs = CommonRuns(rows, columns, 1).value();
  EXPECT_EQ(runs[0].ToString(), "src 0 dst 0 (4:1>6)(6:4>1)");
  EXPECT_EQ(runs[0].contiguous_elements(), 1);
  EXPECT_EQ(runs[0].dst_contiguous_elements(), 6);
  EXPECT_EQ(runs[0].src_contiguous_elements(), 1);
}

// A scale for each 128 rows, read as if it were there for each row.
TEST(CommonRunsTest, RepeatedSourceValues) {
  const IndexMap scale = MakeMap({{0, 1024}}, {{{128, 0}, {8, 1}}});
  const IndexMap line = MakeMap({{0, 1024}}, {{{1024, 1}}});
  EXPECT_EQ(CommonRuns(scale, line, 1)->front().ToString(),
            "src 0 dst 0 (8:1>128)(128:0>1)");
}

TEST(CommonRunsTest, ScalarIsOneElement) {
  const auto runs = CommonRuns(IndexMap(), IndexMap(), 1).value();
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].ToString(), "src 0 dst 0");
  EXPECT_EQ(runs[0].num_elements(), 1);
  EXPECT_EQ(runs[0].contiguous_elements(), 1);
}

TEST(CommonRunsTest, RefusesUnequalRanks) {
  EXPECT_EQ(
      CommonRuns(IndexMap(), MakeMap({{0, 2}}, {{{2, 1}}}), 9).status().code(),
      absl::StatusCode::kInvalidArgument);
}

// 2^20 x (2^20-1) blocks never meet: refused by the limit, not by memory.
TEST(CommonRunsTest, HostileBlocksStopAtTheLimit) {
  const int64_t a = 1 << 20;
  const int64_t b = a - 1;
  const IndexMap src = MakeMap({{0, a * b}}, {{{a, 1}, {b, 2 * a}}});
  const IndexMap dst = MakeMap({{0, a * b}}, {{{b, 1}, {a, 2 * a}}});
  const auto runs = CommonRuns(src, dst, 1000);
  EXPECT_EQ(runs.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace weft::layout
