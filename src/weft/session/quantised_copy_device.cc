// FP8 copies of weights that lie on a GPU, as programs for it.
#include <optional>
#include <utility>

#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/copy_box.h"
#include "weft/session/quantised_copy_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::session {
namespace {

namespace cuda = convert::cuda;

constexpr int64_t kAlignBytes = 256;

}  // namespace

int64_t QuantisedCopies::DeviceScratchBytes() const {
  int64_t bytes = 0;
  for (const Copy& copy : copies_) {
    const bool rows = copy.held == copy.wanted &&
                      execute::RowsOf(copy.map, copy.box).has_value();
    if (rows) continue;
    bytes += base::AlignUp(
        copy.box.num_elements() * tensor::ItemBytes(copy.wanted), kAlignBytes);
  }
  return bytes;
}

absl::StatusOr<std::vector<cuda::ProgramSpec>> QuantisedCopies::ForDevice(
    absl::Span<std::byte* const> stored_bases, std::byte* scratch) const {
  cuda::ProgramSpec gather;
  cuda::ProgramSpec quantise;
  for (const Copy& copy : copies_) {
    const int64_t cols = copy.box.extent(1);
    const int64_t blocks_across = base::CeilDiv(cols, copy.block[1]);
    const int64_t wanted_item = tensor::ItemBytes(copy.wanted);
    cuda::Quantisation work;
    work.block.src_dtype = copy.wanted;
    work.block.rows = copy.box.extent(0);
    work.block.cols = cols;
    work.block.block_rows = copy.block[0];
    work.block.block_cols = copy.block[1];
    work.block.rule = copy.rule;
    work.block.dst = stored_bases[copy.elements];
    work.block.dst_stride_bytes = cols;
    work.block.scales = stored_bases[copy.scales];
    work.block.scales_stride_bytes =
        blocks_across * tensor::ItemBytes(tensor::DType::kF32);
    const std::optional<execute::ElementRows> rows =
        copy.held == copy.wanted ? execute::RowsOf(copy.map, copy.box)
                                 : std::nullopt;
    if (rows.has_value()) {
      work.block.src =
          stored_bases[copy.stored] + rows->offset_elements * wanted_item;
      work.block.src_stride_bytes = rows->stride_elements * wanted_item;
    } else {
      const tensor::Shape origin(2, 0);
      WEFT_ASSIGN_OR_RETURN(
          const layout::IndexMap to,
          layout::IndexMap::RowMajor(copy.box, copy.box.shape(), origin));
      WEFT_ASSIGN_OR_RETURN(
          const std::vector<convert::StridedCopy> copies,
          execute::CopiesOfCommonBox(copy.map, stored_bases[copy.stored], to,
                                     scratch, {copy.held, copy.wanted}));
      for (const convert::StridedCopy& each : copies) {
        gather.copies.push_back({each, std::nullopt});
      }
      work.block.src = scratch;
      work.block.src_stride_bytes = cols * wanted_item;
      scratch +=
          base::AlignUp(copy.box.num_elements() * wanted_item, kAlignBytes);
    }
    quantise.quantisations.push_back(work);
  }
  std::vector<cuda::ProgramSpec> phases;
  if (!gather.copies.empty()) phases.push_back(std::move(gather));
  if (!quantise.quantisations.empty()) phases.push_back(std::move(quantise));
  return phases;
}

}  // namespace weft::session
