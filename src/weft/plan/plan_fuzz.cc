// libFuzzer target: plans from files.
//
// Whatever the bytes, decoding ends in a status or in a plan that encodes to
// the very same bytes; a plan that decodes can be checked against any layout.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "weft/plan/compact_plan.h"
#include "weft/plan/plan_codec.h"

namespace {

// One tensor of 8 rows, in shards of 3 on `num_ranks` ranks.
weft::manifest::Placement Shard(int64_t rank, int64_t num_ranks) {
  weft::manifest::Placement placement;
  placement.layout_spec = "fuzz";
  placement.rank = rank;
  placement.num_ranks = num_ranks;
  placement.tensors = {{"x", weft::tensor::DType::kBF16, {8, 2}}};
  const int64_t rows = num_ranks == 1 ? 8 : 3;
  const weft::tensor::Range ranges[] = {
      {rank * rows, rank * rows + rows < 8 ? rank * rows + rows : 8}, {0, 2}};
  const weft::tensor::Box box = *weft::tensor::Box::Make(ranges);
  weft::layout::StoredTensor stored;
  stored.name = "x";
  stored.shape = box.shape();
  stored.fragments.push_back(
      {0, *weft::layout::IndexMap::RowMajor(box, stored.shape,
                                            weft::tensor::Shape{0, 0})});
  placement.stored.push_back(stored);
  return placement;
}

struct World {
  World() {
    for (int64_t rank = 0; rank < 3; ++rank) {
      sources[rank] = Shard(rank, 3);
      infos.push_back({&sources[rank], {}, 0});
    }
    index = *weft::plan::SourceIndex::Make(infos);
  }
  weft::manifest::Placement sources[3];
  weft::manifest::Placement target = Shard(0, 1);
  std::vector<weft::plan::SourceInfo> infos;
  std::shared_ptr<const weft::plan::SourceIndex> index;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const World* const world = new World();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto plan = weft::plan::DecodePlan(bytes);
  if (!plan.ok()) return 0;
  if (weft::plan::EncodePlan(*plan) != bytes) std::abort();
  weft::plan::CompactPlan ours = *plan;
  // Else every input fails at the digests, and nothing behind them is seen.
  ours.source_digest = world->index->digest();
  if (weft::plan::CheckCompactPlan(ours, *world->index, world->target, {})
          .ok() &&
      !weft::plan::ExpandPlan(ours, *world->index, world->target, {}).ok()) {
    std::abort();
  }
  return 0;
}
