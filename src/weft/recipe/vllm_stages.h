// Which layers a pipeline stage of vLLM holds.
#ifndef WEFT_RECIPE_VLLM_STAGES_H_
#define WEFT_RECIPE_VLLM_STAGES_H_

#include <cstdint>

#include "weft/tensor/box.h"

namespace weft::recipe {

// Global layer numbers of `stage`, 0 <= stage < pp. Every stage has
// num_layers / pp; what remains goes to stages from the last but one
// backwards, so that the last stage, which also has the head, never gets more.
tensor::Range VllmStageLayers(int64_t num_layers, int64_t pp, int64_t stage);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_VLLM_STAGES_H_
