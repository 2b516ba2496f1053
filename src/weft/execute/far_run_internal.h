// One strided copy between far memory (the peer's) and near memory (this
// process's), in bytes, and how it is cut and looked at. Both directions use
// it: pull copies far -> near, push near -> far.
#ifndef WEFT_EXECUTE_FAR_RUN_INTERNAL_H_
#define WEFT_EXECUTE_FAR_RUN_INTERNAL_H_

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "weft/convert/kernel.h"
#include "weft/layout/run.h"
#include "weft/tensor/conversion.h"

namespace weft::execute {

enum class Direction { kPull, kPush };

struct FarMode {
  int64_t extent = 1;
  int64_t far_stride_bytes = 0;
  int64_t near_stride_bytes = 0;
};

struct FarRun {
  int64_t far_offset_bytes = 0;
  int64_t near_offset_bytes = 0;
  absl::InlinedVector<FarMode, 4> modes;  // outermost first
};

// `src_base_bytes` and `dst_base_bytes` are added to the run's offsets.
FarRun MakeFarRun(const layout::Run& run, const tensor::Conversion& conversion,
                  Direction direction, int64_t src_base_bytes,
                  int64_t dst_base_bytes);

// Orders the modes by descending far stride, so that the far side is read or
// written in memory order; repeated values (stride 0) go outermost.
void SortByFarStride(FarRun& run);

enum class Measure {
  kAllBytes,  // item bytes x all extents
  kFarBytes,  // the same without repeated far values
  kFarSpan,   // from the first far byte to the last
};
int64_t MeasureRun(const FarRun& run, int64_t item_bytes, Measure measure);

// Calls `emit` with runs that together copy what `run` copies, none above
// `max_bytes` (unless a single item is): the outermost mode is cut in nearly
// equal parts, then the next one. A long contiguous mode is cut at multiples of
// 4 KiB where that costs no extra part.
void SplitRun(const FarRun& run, int64_t item_bytes, int64_t max_bytes,
              Measure measure, absl::FunctionRef<void(const FarRun&)> emit);

// What the far side of a run that SortByFarStride has ordered looks like.
struct FarShape {
  int64_t piece_bytes = 0;  // contiguous
  int64_t num_pieces = 1;
  int64_t span_bytes = 0;
  int num_outer_modes = 0;  // leading modes that are not inside a piece
  int64_t far_bytes() const { return piece_bytes * num_pieces; }
};
FarShape ShapeOf(const FarRun& run, int64_t far_item_bytes);

// Bytes that lie next to each other on both sides; one item if none.
int64_t SharedPieceBytes(const FarRun& run, int64_t item_bytes);

// The copy without its two pointers.
convert::StridedCopy MakeCopy(const FarRun& run,
                              const tensor::Conversion& conversion,
                              Direction direction);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_FAR_RUN_INTERNAL_H_
