#include "weft/execute/copy_box.h"

#include <utility>
#include <vector>

#include "weft/base/status.h"
#include "weft/execute/block_internal.h"
#include "weft/execute/far_run_internal.h"
#include "weft/layout/run.h"

namespace weft::execute {

std::optional<ElementRows> RowsOf(const layout::IndexMap& map,
                                  const tensor::Box& box) {
  if (!Contains(map.box(), box)) return std::nullopt;
  const std::vector<layout::IndexMap> parts = layout::Restrict(map, box);
  if (parts.size() != 1) return std::nullopt;
  const layout::DimModes& rows = parts[0].modes(0);
  const layout::DimModes& columns = parts[0].modes(1);
  if (rows.size() > 1 || columns.size() > 1 ||
      (!columns.empty() && columns[0].stride != 1)) {
    return std::nullopt;
  }
  return ElementRows{parts[0].offset_elements(),
                     rows.empty() ? 0 : rows[0].stride};
}

absl::StatusOr<std::vector<convert::StridedCopy>> CopiesOfCommonBox(
    const layout::IndexMap& from, const std::byte* src,
    const layout::IndexMap& to, std::byte* dst,
    const tensor::Conversion& conversion) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<layout::Run> runs,
                        layout::CommonRuns(from, to, kMaxRunsPerBlock));
  std::vector<convert::StridedCopy> copies;
  for (const layout::Run& run : runs) {
    // "Far" is the source.
    const FarRun bytes = MakeFarRun(run, conversion, Direction::kPull, 0, 0);
    convert::StridedCopy copy = MakeCopy(bytes, conversion, Direction::kPull);
    copy.src = src + bytes.far_offset_bytes;
    copy.dst = dst + bytes.near_offset_bytes;
    copies.push_back(std::move(copy));
  }
  return copies;
}

absl::Status CopyCommonBox(const convert::Kernels& kernels,
                           const layout::IndexMap& from, const std::byte* src,
                           const layout::IndexMap& to, std::byte* dst,
                           const tensor::Conversion& conversion) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<convert::StridedCopy> copies,
                        CopiesOfCommonBox(from, src, to, dst, conversion));
  for (const convert::StridedCopy& copy : copies) kernels.Copy(copy);
  return absl::OkStatus();
}

}  // namespace weft::execute
