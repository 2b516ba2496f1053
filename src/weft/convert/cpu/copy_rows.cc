#include <cstddef>
#include <cstdint>
#include <cstring>

#include "weft/convert/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/convert/cpu/copy_rows.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::convert::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D8 = hn::ScalableTag<uint8_t>;

inline constexpr int64_t kLineBytes = 64;
// Rows that do not begin on a line have two lines that are not streamed; it
// pays only when they are few among the row's.
inline constexpr int64_t kUnalignedStreamBytes = 1024;
// From here the library's memcpy loses nothing by its call.
inline constexpr int64_t kLibraryBytes = 2048;

HWY_INLINE const uint8_t* Bytes(const std::byte* pointer) {
  return reinterpret_cast<const uint8_t*>(pointer);
}
HWY_INLINE uint8_t* Bytes(std::byte* pointer) {
  return reinterpret_cast<uint8_t*>(pointer);
}

// Rows of a size known to the compiler.
template <size_t kBytes>
HWY_INLINE void CopyFixed(const RowsCopy& rows) {
  const std::byte* src = rows.src;
  std::byte* dst = rows.dst;
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    std::memcpy(dst, src, kBytes);
    src += rows.src_stride_bytes;
    dst += rows.dst_stride_bytes;
  }
}

// kBytes <= row_bytes <= 2*kBytes: two pieces that may overlap.
template <size_t kBytes>
HWY_INLINE void CopyTwice(const RowsCopy& rows) {
  const std::byte* src = rows.src;
  std::byte* dst = rows.dst;
  const auto second = rows.row_bytes - static_cast<int64_t>(kBytes);
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    std::byte pieces[2 * kBytes];
    std::memcpy(pieces, src, kBytes);
    std::memcpy(pieces + kBytes, src + second, kBytes);
    std::memcpy(dst, pieces, kBytes);
    std::memcpy(dst + second, pieces + kBytes, kBytes);
    src += rows.src_stride_bytes;
    dst += rows.dst_stride_bytes;
  }
}

// Up to 32 bytes a row; false when the row is longer.
HWY_INLINE bool CopyTiny(const RowsCopy& rows) {
  const int64_t bytes = rows.row_bytes;
  if (bytes > 32) return false;
  if (bytes == 1) {
    CopyFixed<1>(rows);
  } else if (bytes == 2) {
    CopyFixed<2>(rows);
  } else if (bytes < 4) {
    CopyTwice<2>(rows);
  } else if (bytes == 4) {
    CopyFixed<4>(rows);
  } else if (bytes < 8) {
    CopyTwice<4>(rows);
  } else if (bytes == 8) {
    CopyFixed<8>(rows);
  } else if (bytes < 16) {
    CopyTwice<8>(rows);
  } else if (bytes == 16) {
    CopyFixed<16>(rows);
  } else {
    CopyTwice<16>(rows);
  }
  return true;
}

// Vectors, then one that overlaps the last; row_bytes >= one vector.
template <class D>
HWY_INLINE void CopyVectors(D d8, const RowsCopy& rows) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d8));
  const uint8_t* src = Bytes(rows.src);
  uint8_t* dst = Bytes(rows.dst);
  const int64_t last = rows.row_bytes - lanes;
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    int64_t i = 0;
    for (; i + 4 * lanes <= rows.row_bytes; i += 4 * lanes) {
      const auto v0 = hn::LoadU(d8, src + i);
      const auto v1 = hn::LoadU(d8, src + i + lanes);
      const auto v2 = hn::LoadU(d8, src + i + 2 * lanes);
      const auto v3 = hn::LoadU(d8, src + i + 3 * lanes);
      hn::StoreU(v0, d8, dst + i);
      hn::StoreU(v1, d8, dst + i + lanes);
      hn::StoreU(v2, d8, dst + i + 2 * lanes);
      hn::StoreU(v3, d8, dst + i + 3 * lanes);
    }
    for (; i < last; i += lanes) {
      hn::StoreU(hn::LoadU(d8, src + i), d8, dst + i);
    }
    hn::StoreU(hn::LoadU(d8, src + last), d8, dst + last);
    src += rows.src_stride_bytes;
    dst += rows.dst_stride_bytes;
  }
}

// `num_bytes` is a multiple of a line and dst is on a line.
HWY_INLINE void StreamLines(const uint8_t* HWY_RESTRICT src,
                            uint8_t* HWY_RESTRICT dst, int64_t num_bytes) {
  const D8 d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d8));
  int64_t i = 0;
  for (; i + 4 * lanes <= num_bytes; i += 4 * lanes) {
    const auto v0 = hn::LoadU(d8, src + i);
    const auto v1 = hn::LoadU(d8, src + i + lanes);
    const auto v2 = hn::LoadU(d8, src + i + 2 * lanes);
    const auto v3 = hn::LoadU(d8, src + i + 3 * lanes);
    hn::Stream(v0, d8, dst + i);
    hn::Stream(v1, d8, dst + i + lanes);
    hn::Stream(v2, d8, dst + i + 2 * lanes);
    hn::Stream(v3, d8, dst + i + 3 * lanes);
  }
  for (; i < num_bytes; i += lanes) {
    hn::Stream(hn::LoadU(d8, src + i), d8, dst + i);
  }
}

HWY_INLINE void StreamRows(const RowsCopy& rows) {
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    const std::byte* src = rows.src + r * rows.src_stride_bytes;
    std::byte* dst = rows.dst + r * rows.dst_stride_bytes;
    const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(dst) %
                                           static_cast<uintptr_t>(kLineBytes));
    const int64_t head = past == 0 ? 0 : kLineBytes - past;
    const int64_t lines = (rows.row_bytes - head) / kLineBytes * kLineBytes;
    const int64_t tail = rows.row_bytes - head - lines;
    if (head > 0) std::memcpy(dst, src, static_cast<size_t>(head));
    StreamLines(Bytes(src + head), Bytes(dst + head), lines);
    if (tail > 0) {
      std::memcpy(dst + head + lines, src + head + lines,
                  static_cast<size_t>(tail));
    }
  }
}

HWY_INLINE bool CanStream(const RowsCopy& rows) {
  // A vector wider than a line could not be stored on every line.
  if (!rows.stream || hn::Lanes(D8()) > static_cast<size_t>(kLineBytes)) {
    return false;
  }
  if (rows.row_bytes >= kUnalignedStreamBytes) return true;
  return rows.row_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(rows.dst) %
                 static_cast<uintptr_t>(kLineBytes) ==
             0 &&
         (rows.num_rows == 1 || rows.dst_stride_bytes % kLineBytes == 0);
}

void CopyRows(const RowsCopy& rows) {
  if (CopyTiny(rows)) return;
  if (CanStream(rows)) {
    StreamRows(rows);
  } else if (rows.row_bytes >= kLibraryBytes) {
    for (int64_t r = 0; r < rows.num_rows; ++r) {
      std::memcpy(rows.dst + r * rows.dst_stride_bytes,
                  rows.src + r * rows.src_stride_bytes,
                  static_cast<size_t>(rows.row_bytes));
    }
  } else if (rows.row_bytes >= static_cast<int64_t>(hn::Lanes(D8()))) {
    CopyVectors(D8(), rows);
  } else {
    CopyVectors(hn::Full128<uint8_t>(), rows);
  }
}

}  // namespace weft::convert::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::convert::cpu {

HWY_EXPORT(CopyRows);

void CopyRows(const RowsCopy& rows) { HWY_DYNAMIC_DISPATCH(CopyRows)(rows); }

void FlushStreams() { hwy::FlushStream(); }

}  // namespace weft::convert::cpu
#endif  // HWY_ONCE
