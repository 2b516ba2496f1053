// Strided copies as the inner loops take them: the shape is tidied first, then
// the best pair of modes becomes rows, a transposed plane or single elements.
// Internal to convert/cpu.
#ifndef WEFT_CONVERT_CPU_STRIDED_H_
#define WEFT_CONVERT_CPU_STRIDED_H_

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "weft/convert/kernel.h"

namespace weft::convert::cpu {

using CopyModes = absl::InlinedVector<CopyMode, 4>;

// The same elements with the fewest modes, by falling destination stride:
// modes of extent 1 vanish, and a mode that continues the next on both sides
// is merged with it. Requires extents >= 1. The destination must not be
// written twice, or merging could join what does not belong together.
CopyModes TidyModes(const CopyModes& modes);

// Copies elements of `item_bytes` without change; `modes` as TidyModes leaves
// them. `stream` as in RowsCopy; the caller flushes.
void CopyIdentity(const std::byte* src, std::byte* dst, CopyModes modes,
                  int item_bytes, bool stream);

// The same with a cast or a transform among BF16, F16 and F32.
void CopyCast(const std::byte* src, std::byte* dst, CopyModes modes,
              const tensor::Conversion& conversion);

}  // namespace weft::convert::cpu

#endif  // WEFT_CONVERT_CPU_STRIDED_H_
