#include <algorithm>
#include <cstddef>

#include "weft/base/checked.h"
#include "weft/execute/far_run_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

constexpr int64_t kPageBytes = 4096;

// The mode that SplitRun cuts first, or the number of modes if none counts.
size_t FirstMeasuredMode(const FarRun& run, Measure measure) {
  size_t index = 0;
  while (index < run.modes.size() && measure != Measure::kAllBytes &&
         run.modes[index].far_stride_bytes == 0) {
    ++index;
  }
  return index;
}

FarRun Shifted(FarRun run, const FarMode& mode, int64_t index) {
  run.far_offset_bytes += index * mode.far_stride_bytes;
  run.near_offset_bytes += index * mode.near_stride_bytes;
  return run;
}

}  // namespace

FarRun MakeFarRun(const layout::Run& run, const tensor::Conversion& conversion,
                  Direction direction, int64_t src_base_bytes,
                  int64_t dst_base_bytes) {
  const int64_t src_item = tensor::ItemBytes(conversion.from);
  const int64_t dst_item = tensor::ItemBytes(conversion.to);
  const int64_t src_offset = src_base_bytes + run.src_offset * src_item;
  const int64_t dst_offset = dst_base_bytes + run.dst_offset * dst_item;
  const bool pull = direction == Direction::kPull;
  FarRun result;
  result.far_offset_bytes = pull ? src_offset : dst_offset;
  result.near_offset_bytes = pull ? dst_offset : src_offset;
  for (const layout::RunMode& mode : run.modes) {
    const int64_t src_stride = mode.src_stride * src_item;
    const int64_t dst_stride = mode.dst_stride * dst_item;
    result.modes.push_back({mode.extent, pull ? src_stride : dst_stride,
                            pull ? dst_stride : src_stride});
  }
  return result;
}

void SortByFarStride(FarRun& run) {
  std::stable_sort(
      run.modes.begin(), run.modes.end(),
      [](const FarMode& a, const FarMode& b) {
        if ((a.far_stride_bytes == 0) != (b.far_stride_bytes == 0)) {
          return a.far_stride_bytes == 0;
        }
        return a.far_stride_bytes > b.far_stride_bytes;
      });
}

int64_t MeasureRun(const FarRun& run, int64_t item_bytes, Measure measure) {
  int64_t bytes = item_bytes;
  for (const FarMode& mode : run.modes) {
    if (measure == Measure::kFarSpan) {
      bytes += (mode.extent - 1) * mode.far_stride_bytes;
    } else if (measure == Measure::kAllBytes || mode.far_stride_bytes != 0) {
      bytes *= mode.extent;
    }
  }
  return bytes;
}

void SplitRun(const FarRun& run, int64_t item_bytes, int64_t max_bytes,
              Measure measure, absl::FunctionRef<void(const FarRun&)> emit) {
  const size_t cut = FirstMeasuredMode(run, measure);
  if (cut == run.modes.size() ||
      MeasureRun(run, item_bytes, measure) <= max_bytes) {
    emit(run);
    return;
  }
  const FarMode mode = run.modes[cut];
  FarRun inner = run;
  inner.modes.erase(inner.modes.begin() + static_cast<ptrdiff_t>(cut));
  const int64_t inner_bytes = MeasureRun(inner, item_bytes, measure);
  if (inner_bytes > max_bytes) {
    for (int64_t i = 0; i < mode.extent; ++i) {
      SplitRun(Shifted(inner, mode, i), item_bytes, max_bytes, measure, emit);
    }
    return;
  }
  const int64_t most =
      measure == Measure::kFarSpan
          ? (max_bytes - inner_bytes) / mode.far_stride_bytes + 1
          : std::max<int64_t>(1, max_bytes / inner_bytes);
  const int64_t parts = base::CeilDiv(mode.extent, most);
  int64_t step = base::CeilDiv(mode.extent, parts);
  const int64_t page_items = kPageBytes / item_bytes;
  if (mode.far_stride_bytes == item_bytes && step > page_items) {
    step = std::min(most, base::AlignUp(step, page_items));
  }
  for (int64_t begin = 0; begin < mode.extent; begin += step) {
    const int64_t extent = std::min(step, mode.extent - begin);
    FarRun part = Shifted(extent == 1 ? inner : run, mode, begin);
    if (extent != 1) part.modes[cut].extent = extent;
    emit(part);
  }
}

FarShape ShapeOf(const FarRun& run, int64_t far_item_bytes) {
  FarShape shape;
  shape.piece_bytes = far_item_bytes;
  shape.span_bytes = MeasureRun(run, far_item_bytes, Measure::kFarSpan);
  int outer = static_cast<int>(run.modes.size());
  while (outer > 0 &&
         run.modes[outer - 1].far_stride_bytes == shape.piece_bytes) {
    shape.piece_bytes *= run.modes[--outer].extent;
  }
  shape.num_outer_modes = outer;
  for (int i = 0; i < outer; ++i) {
    if (run.modes[i].far_stride_bytes != 0) {
      shape.num_pieces *= run.modes[i].extent;
    }
  }
  return shape;
}

int64_t SharedPieceBytes(const FarRun& run, int64_t item_bytes) {
  if (run.modes.empty()) return item_bytes;
  const FarMode& last = run.modes.back();
  const bool shared = last.far_stride_bytes == item_bytes &&
                      last.near_stride_bytes == item_bytes;
  return shared ? last.extent * item_bytes : item_bytes;
}

convert::StridedCopy MakeCopy(const FarRun& run,
                              const tensor::Conversion& conversion,
                              Direction direction) {
  convert::StridedCopy copy;
  copy.conversion = conversion;
  for (const FarMode& mode : run.modes) {
    if (direction == Direction::kPull) {
      copy.modes.push_back(
          {mode.extent, mode.far_stride_bytes, mode.near_stride_bytes});
    } else {
      copy.modes.push_back(
          {mode.extent, mode.near_stride_bytes, mode.far_stride_bytes});
    }
  }
  return copy;
}

}  // namespace weft::execute
