#include "weft/convert/cpu/strided.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "weft/convert/cpu/convert_row.h"
#include "weft/convert/cpu/simd.h"

namespace weft::convert::cpu {
namespace {

// Walks the digits of `modes`, outermost first, each by its step.
class Odometer {
 public:
  Odometer(const CopyModes& modes, absl::InlinedVector<int64_t, 4> steps)
      : modes_(modes), steps_(std::move(steps)), digits_(modes.size(), 0) {}

  int64_t digit(size_t mode) const { return digits_[mode]; }
  int64_t src_offset() const { return src_offset_; }
  int64_t dst_offset() const { return dst_offset_; }

  // False when all digits have been seen.
  bool Next() {
    for (size_t k = modes_.size(); k-- > 0;) {
      const CopyMode& mode = modes_[k];
      const bool carries = digits_[k] + steps_[k] >= mode.extent;
      const int64_t next = carries ? 0 : digits_[k] + steps_[k];
      src_offset_ += (next - digits_[k]) * mode.src_stride_bytes;
      dst_offset_ += (next - digits_[k]) * mode.dst_stride_bytes;
      digits_[k] = next;
      if (!carries) return true;
    }
    return false;
  }

 private:
  const CopyModes& modes_;
  absl::InlinedVector<int64_t, 4> steps_;
  absl::InlinedVector<int64_t, 4> digits_;
  int64_t src_offset_ = 0;
  int64_t dst_offset_ = 0;
};

absl::InlinedVector<int64_t, 4> UnitSteps(const CopyModes& modes) {
  return absl::InlinedVector<int64_t, 4>(modes.size(), 1);
}

CopyMode PopBack(CopyModes& modes) {
  const CopyMode mode = modes.back();
  modes.pop_back();
  return mode;
}

// Rows of `row_bytes`, `modes` apart.
void CopyAllRows(const std::byte* src, std::byte* dst, CopyModes modes,
                 int64_t row_bytes, bool stream) {
  const CopyMode rows = modes.empty() ? CopyMode{} : PopBack(modes);
  Odometer odometer(modes, UnitSteps(modes));
  do {
    CopyRows({.src = src + odometer.src_offset(),
              .dst = dst + odometer.dst_offset(),
              .num_rows = rows.extent,
              .row_bytes = row_bytes,
              .src_stride_bytes = rows.src_stride_bytes,
              .dst_stride_bytes = rows.dst_stride_bytes,
              .stream = stream});
  } while (odometer.Next());
}

// `along_src` steps by items in the source, `along_dst` in the destination.
void CopyPlanes(const std::byte* src, std::byte* dst, const CopyModes& modes,
                const CopyMode& along_src, const CopyMode& along_dst,
                int item_bytes) {
  Odometer odometer(modes, UnitSteps(modes));
  do {
    TransposePlane({.src = src + odometer.src_offset(),
                    .dst = dst + odometer.dst_offset(),
                    .num_src_rows = along_dst.extent,
                    .num_dst_rows = along_src.extent,
                    .src_stride_bytes = along_dst.src_stride_bytes,
                    .dst_stride_bytes = along_src.dst_stride_bytes,
                    .item_bytes = item_bytes});
  } while (odometer.Next());
}

// The elements that one block of a strided cast takes along each mode.
constexpr int64_t kBlockElements = 4096;
constexpr int64_t kBlockSide = 64;
// Contiguous casts from this length on need no block.
constexpr int64_t kDirectElements = 32;

absl::InlinedVector<int64_t, 4> BlockExtents(const CopyModes& modes,
                                             int64_t src_item) {
  absl::InlinedVector<int64_t, 4> block(modes.size(), 1);
  int64_t budget = kBlockElements;
  // A mode that is contiguous in the source comes first, for its lines would
  // otherwise be read once for every element of them.
  for (size_t k = 0; k < modes.size(); ++k) {
    if (modes[k].src_stride_bytes == src_item) {
      block[k] = std::min(modes[k].extent, kBlockSide);
      budget /= block[k];
      break;
    }
  }
  for (size_t k = modes.size(); k-- > 0 && budget > 1;) {
    const int64_t more =
        std::min(budget, (modes[k].extent + block[k] - 1) / block[k]);
    block[k] *= more;
    budget /= more;
  }
  return block;
}

// One block: gathered, converted, scattered.
void CastBlock(const std::byte* src, std::byte* dst, const CopyModes& modes,
               const tensor::Conversion& conversion) {
  const int64_t src_item = tensor::ItemBytes(conversion.from);
  const int64_t dst_item = tensor::ItemBytes(conversion.to);
  alignas(64) std::array<std::byte, 4 * kBlockElements> gathered;
  alignas(64) std::array<std::byte, 4 * kBlockElements> casted;
  CopyModes gather = modes;
  CopyModes scatter = modes;
  int64_t count = 1;
  for (size_t k = modes.size(); k-- > 0;) {
    gather[k].dst_stride_bytes = count * src_item;
    scatter[k].src_stride_bytes = count * dst_item;
    count *= modes[k].extent;
  }
  CopyIdentity(src, gathered.data(), TidyModes(gather),
               static_cast<int>(src_item), /*stream=*/false);
  ConvertRow(conversion, gathered.data(), casted.data(), count);
  CopyIdentity(casted.data(), dst, TidyModes(scatter),
               static_cast<int>(dst_item), /*stream=*/false);
}

}  // namespace

CopyModes TidyModes(const CopyModes& modes) {
  CopyModes sorted;
  for (const CopyMode& mode : modes) {
    if (mode.extent != 1) sorted.push_back(mode);
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const CopyMode& a, const CopyMode& b) {
                     return a.dst_stride_bytes > b.dst_stride_bytes;
                   });
  CopyModes merged;
  for (const CopyMode& inner : sorted) {
    if (!merged.empty()) {
      CopyMode& outer = merged.back();
      if (outer.src_stride_bytes == inner.extent * inner.src_stride_bytes &&
          outer.dst_stride_bytes == inner.extent * inner.dst_stride_bytes) {
        outer = {outer.extent * inner.extent, inner.src_stride_bytes,
                 inner.dst_stride_bytes};
        continue;
      }
    }
    merged.push_back(inner);
  }
  return merged;
}

void CopyIdentity(const std::byte* src, std::byte* dst, CopyModes modes,
                  int item_bytes, bool stream) {
  if (modes.empty() || modes.back().dst_stride_bytes != item_bytes) {
    return CopyAllRows(src, dst, std::move(modes), item_bytes, stream);
  }
  const CopyMode inner = PopBack(modes);
  if (inner.src_stride_bytes == item_bytes) {
    return CopyAllRows(src, dst, std::move(modes), inner.extent * item_bytes,
                       stream);
  }
  for (size_t k = modes.size(); k-- > 0;) {
    if (modes[k].src_stride_bytes == item_bytes) {
      const CopyMode along_src = modes[k];
      modes.erase(modes.begin() + static_cast<std::ptrdiff_t>(k));
      return CopyPlanes(src, dst, modes, along_src, inner, item_bytes);
    }
  }
  modes.push_back(inner);
  CopyAllRows(src, dst, std::move(modes), item_bytes, stream);
}

void CopyCast(const std::byte* src, std::byte* dst, CopyModes modes,
              const tensor::Conversion& conversion) {
  const int64_t src_item = tensor::ItemBytes(conversion.from);
  if (modes.empty()) return ConvertRow(conversion, src, dst, 1);
  const CopyMode inner = modes.back();
  if (inner.src_stride_bytes == src_item &&
      inner.dst_stride_bytes == tensor::ItemBytes(conversion.to) &&
      (modes.size() == 1 || inner.extent >= kDirectElements)) {
    modes.pop_back();
    Odometer odometer(modes, UnitSteps(modes));
    do {
      ConvertRow(conversion, src + odometer.src_offset(),
                 dst + odometer.dst_offset(), inner.extent);
    } while (odometer.Next());
    return;
  }
  const absl::InlinedVector<int64_t, 4> block = BlockExtents(modes, src_item);
  Odometer odometer(modes, block);
  CopyModes clipped = modes;
  do {
    for (size_t k = 0; k < modes.size(); ++k) {
      clipped[k].extent =
          std::min(block[k], modes[k].extent - odometer.digit(k));
    }
    CastBlock(src + odometer.src_offset(), dst + odometer.dst_offset(), clipped,
              conversion);
  } while (odometer.Next());
}

}  // namespace weft::convert::cpu
