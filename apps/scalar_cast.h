// One element from one float format to another, bit by bit: the plain
// commands' own arithmetic, so that they can judge the kernels.
#ifndef WEFT_APPS_SCALAR_CAST_H_
#define WEFT_APPS_SCALAR_CAST_H_

#include <cstdint>

#include "weft/tensor/conversion.h"

namespace weft::apps {

// The bits of `conversion.to` nearest to the value of `bits`, ties to even;
// beyond the range infinity; NaN stays NaN (made quiet, sign and upper payload
// kept). A transform is applied to the value in between, in f32. Requires
// tensor::CheckSupported(conversion).ok(). Identity returns `bits`.
uint32_t CastBits(const tensor::Conversion& conversion, uint32_t bits);

}  // namespace weft::apps

#endif  // WEFT_APPS_SCALAR_CAST_H_
