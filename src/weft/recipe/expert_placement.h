// Which experts an engine's rank holds: in runs, dealt out in turn, or as a
// table of expert-parallel load balancing (EPLB) says. Private to this room.
#ifndef WEFT_RECIPE_EXPERT_PLACEMENT_H_
#define WEFT_RECIPE_EXPERT_PLACEMENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/recipe/layout_spec.h"

namespace weft::recipe {

struct ExpertPlacement {
  int64_t ep = 1;
  int64_t ep_rank = 0;
  bool round_robin = false;  // asked for
  int64_t num_redundant = 0;
  bool even = false;  // all ranks must have as many
  std::shared_ptr<const ExpertTable> table = nullptr;  // null: none
};

// Logical experts of the rank, in the order of its physical ones. Physical
// experts are dealt out in runs, the first ranks having one more:
//   no table, no redundant ones   physical x is logical x
//   redundant ones                physical num_experts + i is logical
//                                 i mod num_experts, until the balancer moves
//                                 it
//   table                         its list for `layer`, or that for all layers
// Round robin (expert ep_rank + j * ep is number j) holds only as vLLM keeps
// it: for a router of `groups` > 1, without redundant experts or a table.
// kInvalidArgument if ranks differ in number but may not, the table has no list
// for the layer, leaves out an expert or names one that the model does not
// have.
absl::StatusOr<std::vector<int64_t>> PlacedExperts(
    const ExpertPlacement& placement, int64_t num_experts, int64_t layer,
    int64_t groups);

// A JSON file {"physical_to_logical": LIST} with a list of logical experts, or
// a list of such lists, one a MoE layer; SGLang's spelling
// "physical_to_logical_map" is as good. kInvalidArgument names the file.
absl::StatusOr<std::shared_ptr<const ExpertTable>> ReadExpertTable(
    const std::string& path);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_EXPERT_PLACEMENT_H_
