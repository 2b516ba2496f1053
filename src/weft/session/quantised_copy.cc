#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/layout/run.h"
#include "weft/session/quantised_copy_internal.h"

namespace weft::session {
namespace {

using layout::IndexMap;
using tensor::Box;
using tensor::DType;
using tensor::Range;

// More runs than this from one row of blocks: refused.
constexpr int64_t kMaxRunsPerBand = int64_t{1} << 20;

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

bool HoldsQuantised(const manifest::Placement& placement, int32_t tensor,
                    const Box& box) {
  for (const layout::StoredTensor& stored : placement.stored) {
    if (stored.dtype != DType::kF8E4M3) continue;
    for (const layout::Fragment& fragment : stored.fragments) {
      if (fragment.tensor == tensor && Contains(fragment.map.box(), box)) {
        return true;
      }
    }
  }
  return false;
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
      if (copy.box.empty() ||
          HoldsQuantised(placement, scaled->tensor, copy.box)) {
        continue;
      }
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
      for (int64_t row = copy.box.range(0).begin; row < copy.box.range(0).end;
           row += copy.block[0]) {
        result.bands_.push_back(
            {result.copies_.size(),
             {row, std::min(row + copy.block[0], copy.box.range(0).end)}});
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
  const std::vector<IndexMap> maps = layout::Restrict(copy.map, box);
  const bool in_place =
      copy.held == copy.wanted && maps.size() == 1 &&
      maps[0].modes(0).size() <= 1 && maps[0].modes(1).size() <= 1 &&
      (maps[0].modes(1).empty() || maps[0].modes(1)[0].stride == 1);
  if (in_place) {
    const layout::DimModes& rows = maps[0].modes(0);
    work.src = stored_bases[copy.stored] + maps[0].offset_elements() * item;
    work.src_stride_bytes = (rows.empty() ? 0 : rows[0].stride) * item;
    kernels.Quantise(work);
    return absl::OkStatus();
  }
  // The matrix's own dtype, row-major.
  const int64_t wanted_item = tensor::ItemBytes(copy.wanted);
  buffer.resize(static_cast<size_t>(box.num_elements() * wanted_item));
  const tensor::Shape origin(2, 0);
  WEFT_ASSIGN_OR_RETURN(const IndexMap to,
                        IndexMap::RowMajor(box, box.shape(), origin));
  for (const IndexMap& from : maps) {
    WEFT_ASSIGN_OR_RETURN(const std::vector<layout::Run> runs,
                          layout::CommonRuns(from, to, kMaxRunsPerBand));
    for (const layout::Run& run : runs) {
      convert::StridedCopy strided;
      strided.src = stored_bases[copy.stored] + run.src_offset * item;
      strided.dst = buffer.data() + run.dst_offset * wanted_item;
      strided.conversion = {copy.held, copy.wanted};
      for (const layout::RunMode& mode : run.modes) {
        strided.modes.push_back({mode.extent, mode.src_stride * item,
                                 mode.dst_stride * wanted_item});
      }
      kernels.Copy(strided);
    }
  }
  work.src = buffer.data();
  work.src_stride_bytes = columns * wanted_item;
  kernels.Quantise(work);
  return absl::OkStatus();
}

absl::Status QuantisedCopies::Refresh(const convert::Kernels& kernels,
                                      absl::Span<std::byte* const> stored_bases,
                                      int num_threads) const {
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
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  return failed;
}

}  // namespace weft::session
