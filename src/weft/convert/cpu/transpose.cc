#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "weft/convert/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/convert/cpu/transpose.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::convert::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Both sides of a block in cache lines: 64 bytes of rows each way.
inline constexpr int64_t kBlockBytes = 64;

template <typename T>
HWY_INLINE void TransposeElements(const std::byte* src, std::byte* dst,
                                  int64_t num_src_rows, int64_t num_dst_rows,
                                  int64_t src_stride_bytes,
                                  int64_t dst_stride_bytes) {
  constexpr int64_t kItem = sizeof(T);
  for (int64_t j = 0; j < num_dst_rows; ++j) {
    for (int64_t i = 0; i < num_src_rows; ++i) {
      std::memcpy(dst + j * dst_stride_bytes + i * kItem,
                  src + i * src_stride_bytes + j * kItem, sizeof(T));
    }
  }
}

// A square of 16-byte rows by log2(lanes) rounds of a perfect shuffle: row i
// meets row i + lanes/2, and their interleaved halves are rows 2i and 2i+1.
template <typename T>
HWY_INLINE void TransposeSquare(const std::byte* src, std::byte* dst,
                                int64_t src_stride_bytes,
                                int64_t dst_stride_bytes) {
  const hn::Full128<T> d;
  const hn::Full128<uint8_t> d8;
  constexpr size_t kLanes = 16 / sizeof(T);
  hn::Vec<decltype(d)> rows[kLanes];
  hn::Vec<decltype(d)> next[kLanes];
  for (size_t i = 0; i < kLanes; ++i) {
    rows[i] = hn::BitCast(d, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(
                                               src + static_cast<int64_t>(i) *
                                                         src_stride_bytes)));
  }
  for (size_t round = 1; round < kLanes; round *= 2) {
    for (size_t i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = hn::InterleaveLower(d, rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = hn::InterleaveUpper(d, rows[i], rows[i + kLanes / 2]);
    }
    for (size_t i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
  for (size_t i = 0; i < kLanes; ++i) {
    hn::StoreU(hn::BitCast(d8, rows[i]), d8,
               reinterpret_cast<uint8_t*>(dst + static_cast<int64_t>(i) *
                                                    dst_stride_bytes));
  }
}

template <typename T>
HWY_INLINE void TransposeBlock(const PlaneTranspose& plane, int64_t i_begin,
                               int64_t i_end, int64_t j_begin, int64_t j_end) {
  constexpr int64_t kItem = sizeof(T);
  constexpr int64_t kSide = 16 / kItem;
  for (int64_t i = i_begin; i < i_end; i += kSide) {
    for (int64_t j = j_begin; j < j_end; j += kSide) {
      const std::byte* src = plane.src + i * plane.src_stride_bytes + j * kItem;
      std::byte* dst = plane.dst + j * plane.dst_stride_bytes + i * kItem;
      if (i + kSide <= i_end && j + kSide <= j_end) {
        TransposeSquare<T>(src, dst, plane.src_stride_bytes,
                           plane.dst_stride_bytes);
      } else {
        TransposeElements<T>(src, dst, std::min(kSide, i_end - i),
                             std::min(kSide, j_end - j), plane.src_stride_bytes,
                             plane.dst_stride_bytes);
      }
    }
  }
}

template <typename T>
HWY_INLINE void TransposeBlocks(const PlaneTranspose& plane) {
  constexpr int64_t kSide = kBlockBytes / static_cast<int64_t>(sizeof(T));
  for (int64_t j = 0; j < plane.num_dst_rows; j += kSide) {
    for (int64_t i = 0; i < plane.num_src_rows; i += kSide) {
      TransposeBlock<T>(plane, i, std::min(i + kSide, plane.num_src_rows), j,
                        std::min(j + kSide, plane.num_dst_rows));
    }
  }
}

void TransposePlane(const PlaneTranspose& plane) {
  switch (plane.item_bytes) {
    case 1:
      return TransposeBlocks<uint8_t>(plane);
    case 2:
      return TransposeBlocks<uint16_t>(plane);
    case 4:
      return TransposeBlocks<uint32_t>(plane);
    default:
      return TransposeBlocks<uint64_t>(plane);
  }
}

}  // namespace weft::convert::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::convert::cpu {

HWY_EXPORT(TransposePlane);

void TransposePlane(const PlaneTranspose& plane) {
  HWY_DYNAMIC_DISPATCH(TransposePlane)(plane);
}

}  // namespace weft::convert::cpu
#endif  // HWY_ONCE
