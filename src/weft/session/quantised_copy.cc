#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/run_threads.h"
#include "weft/base/status.h"
#include "weft/execute/copy_box.h"
#include "weft/session/quantised_copy_internal.h"

namespace weft::session {
namespace {

using layout::IndexMap;
using tensor::Box;
using tensor::DType;
using tensor::Range;

// At least: worth a thread's while where a scale is of one row.
constexpr int64_t kBandRows = 128;

absl::StatusOr<layout::StoredTensor> RowMajorStored(std::string name,
                                                    DType dtype, int32_t tensor,
                                                    const Box& box) {
  layout::StoredTensor stored;
  stored.name = std::move(name);
  stored.dtype = dtype;
  stored.shape = box.shape();
  const tensor::Shape origin(2, 0);
  WEFT_ASSIGN_OR_RETURN(IndexMap map,
                        IndexMap::RowMajor(box, stored.shape, origin));
  stored.fragments.push_back({tensor, std::move(map)});
  return stored;
}

// What a placement holds in FP8, by logical tensor.
using BoxesOfTensors = std::vector<std::vector<Box>>;

BoxesOfTensors HeldQuantised(const manifest::Placement& placement) {
  BoxesOfTensors held(placement.tensors.size());
  for (const layout::StoredTensor& stored : placement.stored) {
    if (stored.dtype != DType::kF8E4M3) continue;
    for (const layout::Fragment& fragment : stored.fragments) {
      held[fragment.tensor].push_back(fragment.map.box());
    }
  }
  return held;
}

}  // namespace

absl::StatusOr<QuantisedCopies> QuantisedCopies::AddTo(
    manifest::Placement& placement) {
  QuantisedCopies result;
  std::vector<const layout::ScaledTensor*> scaled_of(placement.tensors.size(),
                                                     nullptr);
  for (const layout::ScaledTensor& scaled : placement.scaled) {
    scaled_of[scaled.tensor] = &scaled;
  }
  BoxesOfTensors held_quantised = HeldQuantised(placement);
  const size_t num_stored = placement.stored.size();
  for (size_t s = 0; s < num_stored; ++s) {
    for (size_t f = 0; f < placement.stored[s].fragments.size(); ++f) {
      // By value: the list grows below.
      const layout::Fragment fragment = placement.stored[s].fragments[f];
      const DType held = placement.stored[s].dtype;
      const layout::ScaledTensor* const scaled = scaled_of[fragment.tensor];
      if (scaled == nullptr || held == DType::kF8E4M3 ||
          fragment.transform != tensor::Transform::kNone) {
        continue;
      }
      const tensor::TensorSpec& matrix = placement.tensors[scaled->tensor];
      Copy copy;
      copy.stored = s;
      copy.map = fragment.map;
      copy.held = held;
      copy.wanted = matrix.dtype;
      copy.block = tensor::BlockShape(scaled->scheme, matrix.shape);
      copy.box =
          tensor::ElementsOf(scaled->scheme, matrix.shape,
                             tensor::WholeBlocksIn(scaled->scheme, matrix.shape,
                                                   fragment.map.box()));
      copy.rule = scaled->scheme.rule;
      std::vector<Box>& known = held_quantised[scaled->tensor];
      const bool is_held =
          std::any_of(known.begin(), known.end(),
                      [&](const Box& box) { return Contains(box, copy.box); });
      if (copy.box.empty() || is_held) continue;
      known.push_back(copy.box);
      std::string name = absl::StrCat(placement.stored[s].name, " fp8");
      if (placement.stored[s].fragments.size() > 1) {
        absl::StrAppend(&name, " ", f);
      }
      copy.elements = placement.stored.size();
      WEFT_ASSIGN_OR_RETURN(
          layout::StoredTensor elements,
          RowMajorStored(name, DType::kF8E4M3, scaled->tensor, copy.box));
      placement.stored.push_back(std::move(elements));
      copy.scales = placement.stored.size();
      WEFT_ASSIGN_OR_RETURN(
          layout::StoredTensor scales,
          RowMajorStored(
              absl::StrCat(name, " scales"), DType::kF32, scaled->scales,
              tensor::BlocksOf(scaled->scheme, matrix.shape, copy.box)));
      placement.stored.push_back(std::move(scales));
      // Whole rows of blocks, which begin where the copy does.
      const int64_t band_rows =
          base::AlignUp(std::max(copy.block[0], kBandRows), copy.block[0]);
      for (int64_t row = copy.box.range(0).begin; row < copy.box.range(0).end;
           row += band_rows) {
        result.bands_.push_back(
            {result.copies_.size(),
             {row, std::min(row + band_rows, copy.box.range(0).end)}});
      }
      result.copies_.push_back(std::move(copy));
    }
  }
  return result;
}

absl::Status QuantisedCopies::QuantiseBand(
    const convert::Kernels& kernels, absl::Span<std::byte* const> stored_bases,
    const Band& band, std::vector<std::byte>& buffer) const {
  const Copy& copy = copies_[band.copy];
  const Box box = copy.box.WithRange(0, band.rows);
  const int64_t first_row = band.rows.begin - copy.box.range(0).begin;
  const int64_t columns = box.extent(1);
  const int64_t blocks_across = (columns + copy.block[1] - 1) / copy.block[1];
  const int64_t item = tensor::ItemBytes(copy.held);
  convert::BlockQuantisation work;
  work.src_dtype = copy.wanted;
  work.rows = box.extent(0);
  work.cols = columns;
  work.block_rows = copy.block[0];
  work.block_cols = copy.block[1];
  work.rule = copy.rule;
  work.dst = stored_bases[copy.elements] + first_row * columns;
  work.dst_stride_bytes = columns;
  work.scales = stored_bases[copy.scales] + first_row / copy.block[0] *
                                                blocks_across *
                                                tensor::ItemBytes(DType::kF32);
  work.scales_stride_bytes = blocks_across * tensor::ItemBytes(DType::kF32);
  const std::optional<execute::ElementRows> rows =
      copy.held == copy.wanted ? execute::RowsOf(copy.map, box) : std::nullopt;
  if (rows.has_value()) {
    work.src = stored_bases[copy.stored] + rows->offset_elements * item;
    work.src_stride_bytes = rows->stride_elements * item;
    kernels.Quantise(work);
    return absl::OkStatus();
  }
  // The matrix's own dtype, row-major.
  const int64_t wanted_item = tensor::ItemBytes(copy.wanted);
  buffer.resize(static_cast<size_t>(box.num_elements() * wanted_item));
  const tensor::Shape origin(2, 0);
  WEFT_ASSIGN_OR_RETURN(const IndexMap to,
                        IndexMap::RowMajor(box, box.shape(), origin));
  WEFT_RETURN_IF_ERROR(
      execute::CopyCommonBox(kernels, copy.map, stored_bases[copy.stored], to,
                             buffer.data(), {copy.held, copy.wanted}));
  work.src = buffer.data();
  work.src_stride_bytes = columns * wanted_item;
  kernels.Quantise(work);
  return absl::OkStatus();
}

absl::Status QuantisedCopies::Refresh(const convert::Kernels& kernels,
                                      absl::Span<std::byte* const> stored_bases,
                                      int num_threads) const {
  if (bands_.empty()) return absl::OkStatus();
  std::atomic<size_t> next{0};
  std::mutex mutex;
  absl::Status failed;
  const auto run = [&] {
    std::vector<std::byte> buffer;
    while (true) {
      const size_t i = next.fetch_add(1);
      if (i >= bands_.size()) return;
      absl::Status status =
          QuantiseBand(kernels, stored_bases, bands_[i], buffer);
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      failed.Update(std::move(status));
    }
  };
  base::RunThreads(num_threads, bands_.size(), run);
  return failed;
}

}  // namespace weft::session
