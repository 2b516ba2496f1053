// How SGLang cuts layers into pipeline stages.
#ifndef WEFT_RECIPE_SGLANG_STAGES_H_
#define WEFT_RECIPE_SGLANG_STAGES_H_

#include <cstdint>

#include "weft/tensor/box.h"

namespace weft::recipe {

// num_layers / pp layers a stage; those left over go to the last stages, one
// each. (An explicit partition by SGLANG_PP_LAYER_PARTITION is not known here.)
tensor::Range SglangStageLayers(int64_t num_layers, int64_t pp, int64_t stage);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_SGLANG_STAGES_H_
