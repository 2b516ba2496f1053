// What becomes of the elements of a row: a cast, or a transform between two.
// Internal to convert/cpu.
#ifndef WEFT_CONVERT_CPU_CONVERT_ROW_H_
#define WEFT_CONVERT_CPU_CONVERT_ROW_H_

#include <cstddef>
#include <cstdint>

#include "weft/tensor/conversion.h"

namespace weft::convert::cpu {

// `count` elements, contiguous on both sides; any alignment. The conversion is
// supported and not the identity.
void ConvertRow(const tensor::Conversion& conversion, const std::byte* src,
                std::byte* dst, int64_t count);

}  // namespace weft::convert::cpu

#endif  // WEFT_CONVERT_CPU_CONVERT_ROW_H_
