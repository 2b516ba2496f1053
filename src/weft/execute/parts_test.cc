// The parts of the executor by themselves: cuts, shapes, images, staging, the
// choice of the way, and the worker threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "weft/execute/block_internal.h"
#include "weft/execute/far_run_internal.h"
#include "weft/execute/local_work_internal.h"
#include "weft/execute/posted_compile_internal.h"
#include "weft/execute/staging_internal.h"
#include "weft/execute/testing/fake_wire.h"
#include "weft/execute/testing/refit_case.h"
#include "weft/execute/wire_way_internal.h"

namespace weft::execute::testing {
namespace {

using Pairs = std::multiset<std::pair<int64_t, int64_t>>;

// Every (far byte, near byte) of a run's items, one after another.
void AddPairs(const FarRun& run, size_t mode, int64_t far, int64_t near,
              Pairs& pairs) {
  if (mode == run.modes.size()) {
    pairs.insert({run.far_offset_bytes + far, run.near_offset_bytes + near});
    return;
  }
  for (int64_t i = 0; i < run.modes[mode].extent; ++i) {
    AddPairs(run, mode + 1, far + i * run.modes[mode].far_stride_bytes,
             near + i * run.modes[mode].near_stride_bytes, pairs);
  }
}

FarRun RandomRun(std::mt19937_64& random, int64_t item) {
  FarRun run;
  run.far_offset_bytes = static_cast<int64_t>(random() % 100) * item;
  run.near_offset_bytes = static_cast<int64_t>(random() % 100) * item;
  const size_t num_modes = random() % 4;
  for (size_t i = 0; i < num_modes; ++i) {
    run.modes.push_back({static_cast<int64_t>(2 + random() % 9),
                         static_cast<int64_t>(random() % 30) * item,
                         static_cast<int64_t>(random() % 30) * item});
  }
  return run;
}

TEST(FarRunTest, SplitKeepsEveryItemAndTheLimit) {
  ASSERT_TRUE(rc::check("split", [](uint64_t seed, bool sort) {
    std::mt19937_64 random(seed);
    const int64_t item = int64_t{1} << random() % 4;
    FarRun run = RandomRun(random, item);
    if (sort) SortByFarStride(run);
    const auto measure = static_cast<Measure>(random() % 3);
    const auto max_bytes = item * static_cast<int64_t>(1 + random() % 200);
    Pairs before;
    AddPairs(run, 0, 0, 0, before);
    Pairs after;
    SplitRun(run, item, max_bytes, measure, [&](const FarRun& part) {
      RC_ASSERT(MeasureRun(part, item, measure) <= max_bytes);
      AddPairs(part, 0, 0, 0, after);
    });
    RC_ASSERT(before == after);
  }));
}

TEST(FarRunTest, LongRunIsCutAtPages) {
  const FarRun run{0, 0, {{(int64_t{5} << 20) + 24, 1, 1}}};
  std::vector<int64_t> begins;
  SplitRun(run, 1, int64_t{1} << 20, Measure::kAllBytes,
           [&](const FarRun& part) {
             begins.push_back(part.far_offset_bytes % 4096);
           });
  EXPECT_EQ(begins, std::vector<int64_t>(6, 0));
}

TEST(BlockTest, CutBoxPartitionsTheBox) {
  ASSERT_TRUE(rc::check("cut box", [](uint64_t seed) {
    std::mt19937_64 random(seed);
    const int rank = static_cast<int>(random() % 4);
    std::vector<tensor::Range> ranges;
    std::vector<layout::DimModes> modes;
    int64_t stride = 1;
    for (int d = 0; d < rank; ++d) {
      const auto begin = static_cast<int64_t>(random() % 100);
      const auto extent =
          static_cast<int64_t>(1 + random() % (rank > 2 ? 20 : 90));
      ranges.push_back({begin, begin + extent});
      modes.push_back({{extent, stride}});
      stride *= extent;
    }
    std::shuffle(modes.begin(), modes.end(), random);
    for (int d = 0; d < rank; ++d) modes[d][0].extent = ranges[d].extent();
    const tensor::Box box = tensor::Box::Make(ranges).value();
    const auto map = layout::IndexMap::Make(box, modes, 0).value();
    const auto most = static_cast<int64_t>(1 + random() % 9000);
    std::map<std::vector<int64_t>, int> seen;
    for (const tensor::Box& block : CutBox(box, map, most)) {
      RC_ASSERT(!block.empty());
      RC_ASSERT(block.num_elements() <= most);
      ForEach(block, [&](absl::Span<const int64_t> x) {
        ++seen[std::vector<int64_t>(x.begin(), x.end())];
      });
    }
    RC_ASSERT(static_cast<int64_t>(seen.size()) == box.num_elements());
    for (const auto& [x, count] : seen) RC_ASSERT(count == 1);
  }));
}

TEST(BlockTest, CompactImageOfANestedMap) {
  // 2 groups of 3 rows of 4 columns, the groups 100 apart.
  const tensor::Box box = tensor::Box::OfShape({6, 4}).value();
  const auto far =
      layout::IndexMap::Make(box, {{{3, 8}, {2, 100}}, {{4, 1}}}, 7).value();
  const Image compact = MakeImage(far, 2, false).value();
  EXPECT_EQ(compact.bytes, 48);
  const std::vector<int64_t> x = {4, 3};  // group 1, row 1
  EXPECT_EQ(compact.map.OffsetOf(x), 12 + 4 + 3);
  EXPECT_EQ(compact.run.far_offset_bytes, 14);
  EXPECT_EQ(ShapeOf(compact.run, 2).piece_bytes, 8);
  EXPECT_EQ(ShapeOf(compact.run, 2).num_pieces, 6);
  const Image span = MakeImage(far, 2, true).value();
  EXPECT_EQ(span.bytes, (100 + 16 + 3 + 1) * 2);
  EXPECT_EQ(span.map.OffsetOf(x), 100 + 8 + 3);
}

TEST(StagingTest, SlotsNeverOverlapAndAllComeBack) {
  ASSERT_TRUE(rc::check("staging", [](uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto bytes = static_cast<int64_t>(4096 + random() % 8192);
    Staging staging = Staging::Make(bytes, {}).value();
    std::map<int64_t, int64_t> live;  // offset -> bytes
    for (int step = 0; step < 200; ++step) {
      if (random() % 2 == 0 || live.empty()) {
        const auto want = static_cast<int64_t>(1 + random() % 1500);
        const auto slot = staging.Take(want);
        if (!slot) continue;
        RC_ASSERT(*slot % Staging::kSlotAlignBytes == 0);
        RC_ASSERT(*slot + want <= bytes);
        for (const auto& [offset, size] : live) {
          RC_ASSERT(*slot + want <= offset || offset + size <= *slot);
        }
        live[*slot] = want;
      } else {
        auto it = live.begin();
        std::advance(it, random() % live.size());
        staging.GiveBack(it->first, it->second);
        live.erase(it);
      }
      RC_ASSERT(staging.peak_bytes() <= bytes);
    }
    for (const auto& [offset, size] : live) staging.GiveBack(offset, size);
    RC_ASSERT(staging.used_bytes() == 0);
    // One hole again: the largest slot that can be had can be had.
    RC_ASSERT(staging.Take(bytes / 64 * 64).has_value());
    RC_ASSERT(!staging.Take(1).has_value());
  }));
}

TEST(StagingTest, IsRegisteredOnceWithEachTransport) {
  FakeTransport one;
  FakeTransport two;
  const Staging staging =
      Staging::Make(4096, {&one, nullptr, &two, &one}).value();
  EXPECT_EQ(one.num_registrations, 1);
  EXPECT_EQ(two.num_registrations, 1);
  EXPECT_NE(staging.RegionFor(&one), nullptr);
  EXPECT_EQ(staging.RegionFor(nullptr), nullptr);
}

TEST(TransferTest, OperationsCoverThePiecesOnce) {
  Transfer transfer;
  transfer.far_offset_bytes = 1000;
  transfer.modes = {{3, 5000, 700}};
  transfer.piece_bytes = 641;
  transfer.ops_per_piece = 3;
  transfer.num_ops = 9;
  std::multiset<std::pair<int64_t, int64_t>> bytes;
  for (int64_t i = 0; i < transfer.num_ops; ++i) {
    const WireOp op = transfer.Op(i);
    ASSERT_GT(op.bytes, 0);
    for (int64_t b = 0; b < op.bytes; ++b) {
      bytes.insert({op.far_offset_bytes + b, op.local_offset_bytes + b});
    }
  }
  std::multiset<std::pair<int64_t, int64_t>> expected;
  for (int64_t piece = 0; piece < 3; ++piece) {
    for (int64_t b = 0; b < 641; ++b) {
      expected.insert({1000 + piece * 5000 + b, piece * 700 + b});
    }
  }
  EXPECT_EQ(bytes, expected);
}

// A wire of 10 GB/s and 1 us an operation: 10 KB of wire time each.
WireCost PlainCost() {
  WireCost cost;
  cost.seconds_per_op = 1e-6;
  cost.bytes_per_second = 10e9;
  return cost;
}

WireQuestion Rows(int64_t piece_bytes, int64_t stride_bytes, int64_t rows) {
  WireQuestion question;
  question.far.piece_bytes = piece_bytes;
  question.far.num_pieces = rows;
  question.far.span_bytes = (rows - 1) * stride_bytes + piece_bytes;
  question.shared_piece_bytes = piece_bytes;
  question.may_be_direct = true;
  question.max_slot_bytes = int64_t{1} << 20;
  return question;
}

TEST(WireWayTest, ThresholdIsTwentyOperationsAndClamped) {
  WireCost cost = PlainCost();
  EXPECT_EQ(cost.direct_threshold_bytes(), 200000);
  cost.seconds_per_op = 1e-9;
  EXPECT_EQ(cost.direct_threshold_bytes(), 16 << 10);
  cost.seconds_per_op = 1;
  EXPECT_EQ(cost.direct_threshold_bytes(), 1 << 20);
}

TEST(WireWayTest, ChoosesTheCheapest) {
  WireCost cost = PlainCost();
  EXPECT_EQ(
      ChooseReadWay(cost, Rows(256 << 10, 1 << 20, 100), PostedWay::kOverRead),
      WireWay::kDirect);
  // Half of each 512 bytes: 1000 operations against 51 us of wire.
  EXPECT_EQ(ChooseReadWay(cost, Rows(256, 512, 1000), PostedWay::kAuto),
            WireWay::kSpan);
  // 256 bytes of each 64 KiB: reading all would cost 6 us a piece.
  EXPECT_EQ(ChooseReadWay(cost, Rows(256, 64 << 10, 1000), PostedWay::kAuto),
            WireWay::kDirect);
  cost.gather = true;
  cost.gather_seconds_per_op = 5e-6;
  cost.gather_bytes_per_second = 5e9;
  EXPECT_EQ(ChooseReadWay(cost, Rows(256, 64 << 10, 1000), PostedWay::kAuto),
            WireWay::kGather);
}

TEST(WireWayTest, WritesPackWhenTheFarSideIsMoreContiguous) {
  const WireCost cost = PlainCost();
  WireQuestion question = Rows(64 << 10, 64 << 10, 1);
  question.shared_piece_bytes = 64;
  EXPECT_EQ(ChooseWriteWay(cost, question), WireWay::kPieces);
  EXPECT_EQ(ChooseWriteWay(cost, Rows(256, 4096, 100)), WireWay::kDirect);
}

TEST(WireWayTest, UnknownCostsAreDefaults) {
  FakeTransport transport;
  transport.known.gather = false;
  const WireCost cost = WireCost::Of(&transport);
  EXPECT_GT(cost.seconds_per_op, 0);
  EXPECT_GT(cost.bytes_per_second, 0);
  EXPECT_FALSE(cost.gather);
  transport.known.posted_bytes_per_second = 3e9;
  EXPECT_EQ(WireCost::Of(&transport).bytes_per_second, 3e9);
}

TEST(LocalWorkTest, EveryChunkAndJobIsDoneOnceInEachRun) {
  for (const int num_workers : {0, 1, 3}) {
    constexpr int64_t kChunks = 1000;
    constexpr int32_t kJobs = 300;
    std::vector<std::atomic<int>> chunks(kChunks);
    std::vector<std::atomic<int>> jobs(kJobs);
    LocalWork::Tasks tasks;
    tasks.num_chunks = kChunks;
    tasks.run_chunk = [&](int64_t chunk) { ++chunks[chunk]; };
    tasks.run_job = [&](const SlotJob& job) { ++jobs[job.active]; };
    auto work = LocalWork::Make(num_workers, std::move(tasks)).value();
    for (int run = 1; run <= 5; ++run) {
      work->Begin();
      for (int32_t j = 0; j < kJobs; ++j) work->Add({0, 0, j, 0});
      work->Finish();
      std::vector<SlotJob> done;
      work->TakeDone(done);
      EXPECT_EQ(done.size(), kJobs);
      for (const auto& count : chunks) ASSERT_EQ(count, run);
      for (const auto& count : jobs) ASSERT_EQ(count, run);
    }
  }
}

TEST(LocalWorkTest, AbortDropsWhatNobodyTook) {
  std::atomic<int> num_run = 0;
  LocalWork::Tasks tasks;
  tasks.num_chunks = 10;
  tasks.run_chunk = [&](int64_t) { ++num_run; };
  tasks.run_job = [&](const SlotJob&) { ++num_run; };
  auto work = LocalWork::Make(0, std::move(tasks)).value();
  work->Begin();
  work->Add({});
  ASSERT_TRUE(work->TryOne());
  work->Abort();
  EXPECT_FALSE(work->TryOne());
  EXPECT_EQ(num_run, 1);
  work->Begin();
  work->Finish();
  EXPECT_EQ(num_run, 11);
}

}  // namespace
}  // namespace weft::execute::testing
