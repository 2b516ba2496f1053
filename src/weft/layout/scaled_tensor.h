// ScaledTensor: a matrix that is held in FP8, and its scales.
#ifndef WEFT_LAYOUT_SCALED_TENSOR_H_
#define WEFT_LAYOUT_SCALED_TENSOR_H_

#include <cstdint>

#include "weft/tensor/scale_scheme.h"

namespace weft::layout {

// A logical matrix that stored tensors of dtype F8_E4M3 hold quantised, and
// the logical tensor of its scales (F32, shape tensor::ScaleShape), both by
// index into the list of logical tensors (manifest::Placement::tensors). The
// matrix keeps its own dtype: BF16 in a placement whose sources may hold BF16.
// Stored tensors of other dtypes hold the matrix as it is; those of the scales
// hold F32.
struct ScaledTensor {
  int32_t tensor = 0;
  int32_t scales = 0;
  tensor::ScaleScheme scheme;
  friend bool operator==(const ScaledTensor&, const ScaledTensor&) = default;
};

}  // namespace weft::layout

#endif  // WEFT_LAYOUT_SCALED_TENSOR_H_
