// Which layers a pipeline stage of Megatron-Core holds.
#ifndef WEFT_RECIPE_MEGATRON_STAGES_H_
#define WEFT_RECIPE_MEGATRON_STAGES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

struct MegatronStages {
  int64_t num_layers = 0;
  int64_t pp = 1;
  int64_t first = 0;  // layers of the first stage; 0 if not given
  int64_t last = 0;   // layers of the last stage; 0 if not given
};

// Global layer numbers of `stage`, 0 <= stage < pp. Even unless `first` or
// `last` is given; then the stages between share the rest evenly, at least
// one layer each. kInvalidArgument if that does not come out.
absl::StatusOr<tensor::Range> MegatronStageLayers(const MegatronStages& stages,
                                                  int64_t stage);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_MEGATRON_STAGES_H_
