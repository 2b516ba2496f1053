// One element at a time, written to be read: what the fast kernels must equal.
#ifndef WEFT_CONVERT_REFERENCE_ELEMENT_H_
#define WEFT_CONVERT_REFERENCE_ELEMENT_H_

#include <cstddef>

#include "weft/tensor/conversion.h"

namespace weft::convert::reference {

// Writes the element at `src`, converted, to `dst`. Any alignment. The
// conversion must be supported (tensor::CheckSupported).
void ConvertElement(const tensor::Conversion& conversion, const std::byte* src,
                    std::byte* dst);

}  // namespace weft::convert::reference

#endif  // WEFT_CONVERT_REFERENCE_ELEMENT_H_
