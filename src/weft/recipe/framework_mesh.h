// The rank grid of each framework, and the symbols that its tables may use.
// Private to this room.
#ifndef WEFT_RECIPE_FRAMEWORK_MESH_H_
#define WEFT_RECIPE_FRAMEWORK_MESH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/mesh.h"
#include "weft/recipe/layout_spec.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

// Rank order, fastest axis first:
//   fsdp      tp, shard, replicate
//   megatron  tp, cp, dp, pp  (the dense grid of "tp-cp-ep-dp-pp")
//   vllm      tp, pp, dp      (an engine replica is one dp index)
// Experts have a grid of their own over the same ranks of a pipeline stage:
//   megatron  etp, ep, replicas, over tp * cp * dp
//   vllm      ep over tp and dp, tp fastest; without ep, their tensor
//             parallelism runs over the same ranks
absl::StatusOr<layout::Mesh> MeshOf(const LayoutSpec& spec);

// kInvalidArgument if the grid of the experts does not come out.
absl::Status CheckExpertGrid(const LayoutSpec& spec, const layout::Mesh& mesh);

// kInvalidArgument: "rank 8 is not below the 8 ranks of megatron:tp=8".
absl::Status CheckRank(const LayoutSpec& spec, const layout::Mesh& mesh,
                       int64_t rank);

// Global numbers of the layers that `rank` holds; all for hf and fsdp.
absl::StatusOr<tensor::Range> LayersOf(const LayoutSpec& spec,
                                       const layout::Mesh& mesh, int64_t rank,
                                       int64_t num_layers);

// Names of the symbols of a framework with a table (megatron, vllm), and their
// values for a rank, in the same order: degree and rank of each axis (tp,
// tp_rank, ...), those of the experts' grid, layer_begin, layer_end,
// first_stage, last_stage, then the framework's own.
const std::vector<std::string>& FrameworkSymbols(Framework framework);
std::vector<int64_t> FrameworkSymbolValues(const LayoutSpec& spec,
                                           const layout::Mesh& mesh,
                                           int64_t rank, tensor::Range layers);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_FRAMEWORK_MESH_H_
