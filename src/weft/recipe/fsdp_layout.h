// Which box of a parameter a rank of FSDP2 (with or without DTensor tensor
// parallelism and replication) holds.
#ifndef WEFT_RECIPE_FSDP_LAYOUT_H_
#define WEFT_RECIPE_FSDP_LAYOUT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

// The dimension that tensor parallelism cuts.
enum class TpCut { kNone, kRows, kColumns };

struct FsdpCoordinates {
  int64_t shard = 1;
  int64_t shard_rank = 0;
  int64_t tp = 1;
  int64_t tp_rank = 0;
  int64_t ep = 1;  // divides shard
};

// The box of a tensor of `shape` (rank >= 1; >= 2 for kColumns), by order of
// construction: tensor parallelism cuts first, then the shard axis cuts
// dimension 0 of what is left; both as torch.chunk does. Trailing boxes may be
// short or empty. With uneven rows the placement metadata of DTensor says
// otherwise, the data does not.
absl::StatusOr<tensor::Box> FsdpBox(absl::Span<const int64_t> shape, TpCut cut,
                                    const FsdpCoordinates& at);

// The experts that a rank holds of a stack of them: whole ones, first dealt out
// evenly over ep (the fastest part of the shard axis), then as torch.chunk does
// over the rest of the axis. kInvalidArgument unless ep divides their number.
absl::StatusOr<tensor::Range> FsdpExperts(int64_t num_experts,
                                          const FsdpCoordinates& at);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_FSDP_LAYOUT_H_
