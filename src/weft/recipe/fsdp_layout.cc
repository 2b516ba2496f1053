#include "weft/recipe/fsdp_layout.h"

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/layout/mesh.h"

namespace weft::recipe {

absl::StatusOr<tensor::Box> FsdpBox(absl::Span<const int64_t> shape, TpCut cut,
                                    const FsdpCoordinates& at) {
  const std::size_t min_rank = cut == TpCut::kColumns ? 2 : 1;
  if (shape.size() < min_rank) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor of rank ", shape.size(),
                     " has no dimension that fsdp could cut"));
  }
  absl::InlinedVector<tensor::Range, 4> ranges;
  for (const int64_t extent : shape) ranges.push_back({0, extent});
  if (cut == TpCut::kRows) {
    ranges[0] = layout::ChunkSplit(shape[0], at.tp, at.tp_rank);
  } else if (cut == TpCut::kColumns) {
    ranges[1] = layout::ChunkSplit(shape[1], at.tp, at.tp_rank);
  }
  const tensor::Range within =
      layout::ChunkSplit(ranges[0].extent(), at.shard, at.shard_rank);
  ranges[0] = {ranges[0].begin + within.begin, ranges[0].begin + within.end};
  return tensor::Box::Make(ranges);
}

absl::StatusOr<tensor::Range> FsdpExperts(int64_t num_experts,
                                          const FsdpCoordinates& at) {
  if (num_experts % at.ep != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ep=", at.ep, " does not divide the ", num_experts, " experts"));
  }
  const int64_t each = num_experts / at.ep;
  const int64_t first = at.shard_rank % at.ep * each;
  const tensor::Range within =
      layout::ChunkSplit(each, at.shard / at.ep, at.shard_rank / at.ep);
  return tensor::Range{first + within.begin, first + within.end};
}

}  // namespace weft::recipe
