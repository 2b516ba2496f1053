// The arithmetic of tensor::Transform, of one value.
#ifndef WEFT_CONVERT_TRANSFORM_H_
#define WEFT_CONVERT_TRANSFORM_H_

#include "weft/tensor/conversion.h"

namespace weft::convert {

// -exp(x) is taken in double and rounded once, x + 1 and x - 1 are sums of
// f32. NaN stays NaN, as under a cast.
float ApplyTransform(tensor::Transform transform, float value);

}  // namespace weft::convert

#endif  // WEFT_CONVERT_TRANSFORM_H_
