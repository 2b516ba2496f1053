// Which layers a rank of Megatron-Core's pipeline holds.
#ifndef WEFT_RECIPE_MEGATRON_STAGES_H_
#define WEFT_RECIPE_MEGATRON_STAGES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

// Layers of one model chunk, and what is beside them.
struct StageChunk {
  tensor::Range layers;
  bool first = false;  // has the embedding
  bool last = false;   // has the last norm and the head
  bool mtp = false;    // has the layers for multi-token prediction, if any
  friend bool operator==(const StageChunk&, const StageChunk&) = default;
};

struct MegatronStages {
  int64_t num_layers = 0;
  int64_t pp = 1;
  int64_t vpp = 1;                  // model chunks of a stage
  int64_t first = 0;                // layers of the first stage; 0 if not given
  int64_t last = 0;                 // layers of the last stage; 0 if not given
  bool embedding_in_split = false;  // the embedding takes a layer's place
  bool loss_in_split = false;       // the loss does
  // pipeline_model_parallel_layout: "Ettt|(tt|)*3tL"; empty if not given.
  std::string layout = "";
};

// The chunks of `stage`, 0 <= stage < pp, in order; vpp of them. Chunk c of all
// stages comes before chunk c + 1 of any. Even unless `first`, `last` or
// `layout` is given; with the first two, the stages between share the rest
// evenly, at least one layer each. kInvalidArgument if that does not come out.
absl::StatusOr<std::vector<StageChunk>> MegatronStageChunks(
    const MegatronStages& stages, int64_t stage);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_MEGATRON_STAGES_H_
