// The checkpoint's tensors as every rank's layout refers to them. Private to
// this room.
#ifndef WEFT_RECIPE_LOGICAL_INDEX_H_
#define WEFT_RECIPE_LOGICAL_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "weft/tensor/scale_scheme.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::recipe {

// The scales that the checkpoint has of a matrix.
struct OwnScales {
  int32_t scales = 0;  // their index
  tensor::ScaleScheme scheme;
};

struct LogicalIndex {
  std::vector<tensor::TensorSpec> specs;
  // By index: no layout changes its dtype.
  std::vector<bool> dtype_pinned;
  std::vector<bool> quant;  // engines may hold it quantised
  absl::flat_hash_map<std::string, int32_t> by_name;
  absl::flat_hash_map<int32_t, OwnScales> own_scales;  // by matrix
  // Some tensor is F8_E4M3: what is not is not quantised by choice.
  bool is_quantised = false;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_LOGICAL_INDEX_H_
