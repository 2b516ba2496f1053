// Copies between two memories of this process, by index maps.
#ifndef WEFT_EXECUTE_COPY_BOX_H_
#define WEFT_EXECUTE_COPY_BOX_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/convert/kernel.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/box.h"
#include "weft/tensor/conversion.h"

namespace weft::execute {

// Rows of neighbouring elements at a constant distance: what a kernel for
// matrices can read or write at once.
struct ElementRows {
  int64_t offset_elements = 0;
  int64_t stride_elements = 0;
};

// How `map` lays out `box` of a matrix; nullopt if not as such rows, or not all
// of it.
std::optional<ElementRows> RowsOf(const layout::IndexMap& map,
                                  const tensor::Box& box);

// The copies that bring from.box() ∩ to.box() over, as CopyCommonBox does.
absl::StatusOr<std::vector<convert::StridedCopy>> CopiesOfCommonBox(
    const layout::IndexMap& from, const std::byte* src,
    const layout::IndexMap& to, std::byte* dst,
    const tensor::Conversion& conversion);

// Copies from.box() ∩ to.box(). The memories begin at `src` and `dst`, with
// items of the conversion's dtypes. kResourceExhausted if too many runs are
// needed.
absl::Status CopyCommonBox(const convert::Kernels& kernels,
                           const layout::IndexMap& from, const std::byte* src,
                           const layout::IndexMap& to, std::byte* dst,
                           const tensor::Conversion& conversion);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_COPY_BOX_H_
