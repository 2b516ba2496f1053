// The rank grid of each framework, and the symbols that its tables may use.
// Private to this room.
#ifndef WEFT_RECIPE_FRAMEWORK_MESH_H_
#define WEFT_RECIPE_FRAMEWORK_MESH_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/mesh.h"
#include "weft/recipe/expert_placement.h"
#include "weft/recipe/layout_spec.h"
#include "weft/recipe/megatron_stages.h"

namespace weft::recipe {

// Rank order, fastest axis first:
//   fsdp      tp, shard, replicate
//   megatron  tp, cp, dp, pp  (the dense grid of "tp-cp-ep-dp-pp")
//   vllm      tp, pp, dp      (an engine replica is one dp index)
//   sglang    tp, pp          (dp cuts the ranks of tp, for attention)
// Experts have a grid of their own over the same ranks:
//   fsdp      ep over shard, ep fastest (prime-rl's mesh; cp is part of shard)
//   megatron  etp, ep, replicas, over tp * cp * dp
//   vllm      ep over tp and dp, tp fastest; without ep, their tensor
//             parallelism runs over the same ranks
//   sglang    moe_tp, ep over tp
absl::StatusOr<layout::Mesh> MeshOf(const LayoutSpec& spec);

// kInvalidArgument if the grid of the experts or of attention does not come
// out.
absl::Status CheckGrids(const LayoutSpec& spec, const layout::Mesh& mesh);

// kInvalidArgument: "rank 8 is not below the 8 ranks of megatron:tp=8".
absl::Status CheckRank(const LayoutSpec& spec, const layout::Mesh& mesh,
                       int64_t rank);

// The model chunks of `rank`: one but with Megatron's vpp; with all layers for
// hf and fsdp.
absl::StatusOr<std::vector<StageChunk>> ChunksOf(const LayoutSpec& spec,
                                                 const layout::Mesh& mesh,
                                                 int64_t rank,
                                                 int64_t num_layers);

// Which experts an engine's rank holds.
ExpertPlacement PlacementOf(const LayoutSpec& spec, const layout::Mesh& mesh,
                            int64_t rank);

// Names of the symbols that the tables of a framework may use beside the
// config's, and their values for one chunk of a rank, in the same order: degree
// and rank of each axis (tp, tp_rank, ...), those of the experts' grid,
// layer_begin, layer_end, first_stage, last_stage, then the framework's own;
// for fsdp the axes and ep only.
const std::vector<std::string>& FrameworkSymbols(Framework framework);
std::vector<int64_t> FrameworkSymbolValues(const LayoutSpec& spec,
                                           const layout::Mesh& mesh,
                                           int64_t rank,
                                           const StageChunk& chunk);
// Its words for names.
std::vector<std::pair<std::string, std::string>> FrameworkTexts(
    Framework framework);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_FRAMEWORK_MESH_H_
