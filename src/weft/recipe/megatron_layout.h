// pipeline_model_parallel_layout of Megatron-Core: which layers each virtual
// stage has, written out. Private to this room.
#ifndef WEFT_RECIPE_MEGATRON_LAYOUT_H_
#define WEFT_RECIPE_MEGATRON_LAYOUT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "weft/recipe/megatron_stages.h"

namespace weft::recipe {

// All pp * vpp virtual stages of `stages.layout`, the pipeline's stages of the
// first chunk first. Letters: E embedding, t layer, m multi-token prediction,
// L loss; `|` between stages, x*n for n times x, (..)*n for n times the group,
// which holds no group. kInvalidArgument if it does not fit to the rest.
absl::StatusOr<std::vector<StageChunk>> ParseMegatronLayout(
    const MegatronStages& stages);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_MEGATRON_LAYOUT_H_
