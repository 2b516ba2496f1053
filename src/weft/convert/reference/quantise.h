// Quantisation by blocks and back, element by element: what the fast kernels
// must equal.
#ifndef WEFT_CONVERT_REFERENCE_QUANTISE_H_
#define WEFT_CONVERT_REFERENCE_QUANTISE_H_

#include "weft/convert/kernel.h"

namespace weft::convert::reference {

void QuantiseBlocks(const BlockQuantisation& work);
void DequantiseMxfp4(const Mxfp4Blocks& work);

}  // namespace weft::convert::reference

#endif  // WEFT_CONVERT_REFERENCE_QUANTISE_H_
