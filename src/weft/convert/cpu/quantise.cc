#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "weft/convert/cpu/simd.h"
#include "weft/convert/kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/convert/cpu/quantise.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::convert::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using tensor::DType;

using D8 = hn::ScalableTag<uint8_t>;
using D16 = hn::Repartition<int16_t, D8>;
using D32 = hn::Repartition<uint32_t, D8>;
using DI32 = hn::Repartition<int32_t, D8>;
using DF32 = hn::Repartition<float, D8>;
using V32 = hn::Vec<D32>;
using VF32 = hn::Vec<DF32>;

inline constexpr int64_t kLineBytes = 64;
// Blocks beside each other are measured, then converted, together, so that
// memory is read in rows as long as may be and is in the second cache when it
// is read again.
inline constexpr int64_t kGroupBytes = int64_t{256} << 10;
inline constexpr int64_t kMaxGroup = 64;

// --- Rounding a magnitude to a code.

// The bias of 121 is that of the exponent of the least normal value, 2^-6,
// below which values are as far apart as there. Each code is returned with
// kExcess added, which pairs take off together.
inline constexpr uint32_t kLeastExponent = (127u - 6u) << 23;
inline constexpr uint32_t kExcess = kLeastExponent >> 20;

// `magnitude` >= 0 and finite, and no more than 464. Added to 2^20 times its
// power of two (in place of its sum, which has 24 bits), a value keeps just
// three bits behind its first, and the processor rounds to even.
HWY_INLINE V32 ExcessCode(VF32 magnitude) {
  const D32 d;
  const DF32 df;
  const DI32 di;
  const auto exponent_bits =
      hn::And(hn::BitCast(d, magnitude), hn::Set(d, 0x7f800000u));
  // As signed, for which SSSE3 has an instruction; the sign bit is clear.
  const auto exponent =
      hn::BitCast(d, hn::Max(hn::BitCast(di, exponent_bits),
                             hn::Set(di, int32_t{kLeastExponent})));
  const auto unit = hn::Add(exponent, hn::Set(d, 20u << 23));
  const auto sum = hn::BitCast(d, hn::Add(magnitude, hn::BitCast(df, unit)));
  return hn::Add(hn::Sub(sum, unit), hn::ShiftRight<20>(exponent));
}

// --- The three kinds of source. Each loads two vectors of magnitudes: of a
// 16-bit type the even and the odd elements, of F32 the first and the second
// half. `kLaneBytes` of source go into one lane of both together.

HWY_INLINE V32 LoadWords(const uint8_t* src) {
  return hn::BitCast(D32(), hn::LoadU(D8(), src));
}

// The codes of the even and odd elements of `words` with their signs, in the
// order of the elements.
HWY_INLINE void StorePairs(V32 words, V32 even, V32 odd, uint8_t* dst) {
  const D32 d;
  const hn::Rebind<uint16_t, D32> d16;
  const hn::Repartition<uint8_t, decltype(d16)> d8;
  const auto codes = hn::Sub(hn::Add(even, hn::ShiftLeft<8>(odd)),
                             hn::Set(d, kExcess * 0x101u));
  const auto signs =
      hn::Or(hn::And(hn::ShiftRight<8>(words), hn::Set(d, 0x80u)),
             hn::And(hn::ShiftRight<16>(words), hn::Set(d, 0x8000u)));
  hn::StoreU(hn::BitCast(d8, hn::TruncateTo(d16, hn::Or(codes, signs))), d8,
             dst);
}

struct BF16Source {
  static constexpr int64_t kItemBytes = 2;
  static HWY_INLINE int64_t ChunkElements() {
    return static_cast<int64_t>(hn::Lanes(D16()));
  }
  static HWY_INLINE void Quantise(const uint8_t* src, uint8_t* dst,
                                  VF32 inverse) {
    const D32 d;
    const DF32 df;
    const auto words = LoadWords(src);
    const auto magnitudes = hn::And(words, hn::Set(d, 0x7fff7fffu));
    const auto even = hn::BitCast(df, hn::ShiftLeft<16>(magnitudes));
    const auto odd =
        hn::BitCast(df, hn::And(magnitudes, hn::Set(d, 0x7fff0000u)));
    StorePairs(words, ExcessCode(hn::Mul(even, inverse)),
               ExcessCode(hn::Mul(odd, inverse)), dst);
  }
  static float Widen(uint32_t magnitude) {
    return std::bit_cast<float>(magnitude << 16);
  }
};

struct F16Source {
  static constexpr int64_t kItemBytes = 2;
  static HWY_INLINE int64_t ChunkElements() {
    return static_cast<int64_t>(hn::Lanes(D16()));
  }
  // Of a finite magnitude in the low bits of each lane.
  static HWY_INLINE VF32 Promote(V32 half) {
    const D32 d;
    const DF32 df;
    const auto shifted = hn::ShiftLeft<13>(half);
    // Normal: correct the bias. Subnormal: 2^-14 + mantissa, from which 2^-14
    // is taken exactly.
    const auto normal =
        hn::BitCast(df, hn::Add(shifted, hn::Set(d, (127u - 15u) << 23)));
    const auto least_normal = hn::Set(d, (127u - 14u) << 23);
    const auto subnormal =
        hn::Sub(hn::BitCast(df, hn::Or(shifted, least_normal)),
                hn::BitCast(df, least_normal));
    return hn::IfThenElse(hn::RebindMask(df, hn::Lt(half, hn::Set(d, 0x0400u))),
                          subnormal, normal);
  }
  static HWY_INLINE void Quantise(const uint8_t* src, uint8_t* dst,
                                  VF32 inverse) {
    const D32 d;
    const auto words = LoadWords(src);
    const auto magnitudes = hn::And(words, hn::Set(d, 0x7fff7fffu));
    const auto even = Promote(hn::And(magnitudes, hn::Set(d, 0xffffu)));
    const auto odd = Promote(hn::ShiftRight<16>(magnitudes));
    StorePairs(words, ExcessCode(hn::Mul(even, inverse)),
               ExcessCode(hn::Mul(odd, inverse)), dst);
  }
  static float Widen(uint32_t magnitude) {
    const auto mantissa = static_cast<float>(magnitude & 0x03ffu);
    const auto exponent = static_cast<int>(magnitude >> 10);
    if (exponent == 0) return std::ldexp(mantissa, -24);
    if (exponent < 31) return std::ldexp(1024.0f + mantissa, exponent - 25);
    return mantissa == 0 ? std::numeric_limits<float>::infinity()
                         : std::numeric_limits<float>::quiet_NaN();
  }
};

struct F32Source {
  static constexpr int64_t kItemBytes = 4;
  static HWY_INLINE int64_t ChunkElements() {
    return static_cast<int64_t>(hn::Lanes(D32()));
  }
  static HWY_INLINE void Quantise(const uint8_t* src, uint8_t* dst,
                                  VF32 inverse) {
    const D32 d;
    const DF32 df;
    const hn::Rebind<uint8_t, D32> d8;
    const auto words = LoadWords(src);
    const auto magnitude =
        hn::BitCast(df, hn::And(words, hn::Set(d, 0x7fffffffu)));
    const auto code =
        hn::Sub(ExcessCode(hn::Mul(magnitude, inverse)), hn::Set(d, kExcess));
    const auto sign = hn::And(hn::ShiftRight<24>(words), hn::Set(d, 0x80u));
    hn::StoreU(hn::TruncateTo(d8, hn::Or(code, sign)), d8, dst);
  }
  static float Widen(uint32_t magnitude) {
    return std::bit_cast<float>(magnitude);
  }
};

// --- Rows.

// The largest magnitudes of `bytes` of 16-bit or 32-bit elements, lane by
// lane; `most` starts as what was largest before.
template <class Source>
using MagnitudeTag =
    hn::Repartition<hwy::SignedFromSize<Source::kItemBytes>, D8>;

template <class Source>
HWY_INLINE hn::Vec<MagnitudeTag<Source>> Magnitudes(const uint8_t* src) {
  const MagnitudeTag<Source> d;
  using Lane = hn::TFromD<MagnitudeTag<Source>>;
  return hn::And(hn::BitCast(d, hn::LoadU(D8(), src)),
                 hn::Set(d, std::numeric_limits<Lane>::max()));
}

template <class Source>
HWY_INLINE hn::Vec<MagnitudeTag<Source>> LargestOfRow(
    const uint8_t* src, int64_t bytes, hn::Vec<MagnitudeTag<Source>> most) {
  const auto vector_bytes = static_cast<int64_t>(hn::Lanes(D8()));
  if (bytes < vector_bytes) {
    HWY_ALIGN uint8_t padded[HWY_MAX_BYTES] = {};
    std::memcpy(padded, src, static_cast<size_t>(bytes));
    return hn::Max(most, Magnitudes<Source>(padded));
  }
  auto other = most;
  int64_t i = 0;
  for (; i + 2 * vector_bytes <= bytes; i += 2 * vector_bytes) {
    most = hn::Max(most, Magnitudes<Source>(src + i));
    other = hn::Max(other, Magnitudes<Source>(src + i + vector_bytes));
  }
  if (i + vector_bytes <= bytes) {
    most = hn::Max(most, Magnitudes<Source>(src + i));
  }
  // The last vector may see some elements twice, which changes nothing.
  return hn::Max(hn::Max(most, other),
                 Magnitudes<Source>(src + bytes - vector_bytes));
}

template <class Source>
HWY_INLINE void QuantiseRow(const uint8_t* src, uint8_t* dst, int64_t count,
                            VF32 inverse) {
  const int64_t chunk = Source::ChunkElements();
  if (count < chunk) {
    HWY_ALIGN uint8_t src_copy[HWY_MAX_BYTES] = {};
    HWY_ALIGN uint8_t dst_copy[HWY_MAX_BYTES];
    std::memcpy(src_copy, src, static_cast<size_t>(count * Source::kItemBytes));
    Source::Quantise(src_copy, dst_copy, inverse);
    std::memcpy(dst, dst_copy, static_cast<size_t>(count));
    return;
  }
  int64_t i = 0;
  for (; i + 2 * chunk <= count; i += 2 * chunk) {
    Source::Quantise(src + i * Source::kItemBytes, dst + i, inverse);
    Source::Quantise(src + (i + chunk) * Source::kItemBytes, dst + i + chunk,
                     inverse);
  }
  if (i + chunk <= count) {
    Source::Quantise(src + i * Source::kItemBytes, dst + i, inverse);
    i += chunk;
  }
  if (i == count) return;
  const int64_t last = count - chunk;
  Source::Quantise(src + last * Source::kItemBytes, dst + last, inverse);
}

// With a scale that is not finite: zeros where it is infinite and the element
// is not, NaN otherwise.
template <class Source>
void QuantiseNonFiniteRow(const uint8_t* src, uint8_t* dst, int64_t count,
                          float scale) {
  for (int64_t i = 0; i < count; ++i) {
    // Little endian: the sign is in the last byte.
    const uint8_t* element = src + i * Source::kItemBytes;
    uint32_t bits = 0;
    std::memcpy(&bits, element, Source::kItemBytes);
    const uint32_t sign = bits >> (8 * Source::kItemBytes - 1) << 7;
    const uint32_t magnitude =
        bits & (0xffffffffu >> (33 - 8 * Source::kItemBytes));
    const bool zero =
        std::isinf(scale) && std::isfinite(Source::Widen(magnitude));
    dst[i] = static_cast<uint8_t>(sign | (zero ? 0u : 0x7fu));
  }
}

// --- Blocks.

HWY_INLINE float ScaleOf(tensor::ScaleRule rule, float amax) {
  if (!std::isfinite(amax)) {
    return std::isnan(amax) ? std::numeric_limits<float>::quiet_NaN() : amax;
  }
  constexpr float kLeastAmax = 1e-4f;
  constexpr float kScaleOfOne = 0x1.24924ap-9f;  // fl32(1/448)
  const float scale = std::max(amax, kLeastAmax) * kScaleOfOne;
  if (rule == tensor::ScaleRule::kFloat) return scale;
  // A mantissa that is not zero carries into the exponent.
  return std::bit_cast<float>((std::bit_cast<uint32_t>(scale) + 0x007fffffu) &
                              0xff800000u);
}

// Blocks beside each other in one row of blocks.
struct Group {
  const uint8_t* src;
  uint8_t* dst;
  std::byte* scales;
  int64_t rows;
  int64_t cols;
};

template <class Source>
void QuantiseGroup(const BlockQuantisation& work, const Group& group) {
  using DM = MagnitudeTag<Source>;
  using Lane = hn::TFromD<DM>;
  HWY_ALIGN Lane most[kMaxGroup * (HWY_MAX_BYTES / sizeof(Lane))];
  const DM dm;
  const size_t lanes = hn::Lanes(dm);
  const auto num_blocks =
      static_cast<size_t>((group.cols + work.block_cols - 1) / work.block_cols);
  for (size_t b = 0; b < num_blocks; ++b) {
    hn::Store(hn::Zero(dm), dm, most + b * lanes);
  }
  const auto width = [&](size_t b) {
    return std::min(work.block_cols,
                    group.cols - static_cast<int64_t>(b) * work.block_cols);
  };
  for (int64_t row = 0; row < group.rows; ++row) {
    const uint8_t* src = group.src + row * work.src_stride_bytes;
    for (size_t b = 0; b < num_blocks; ++b) {
      const int64_t bytes = width(b) * Source::kItemBytes;
      const auto before = hn::Load(dm, most + b * lanes);
      hn::Store(LargestOfRow<Source>(src, bytes, before), dm, most + b * lanes);
      src += bytes;
    }
  }
  float scales[kMaxGroup];
  float inverses[kMaxGroup];
  bool finite = true;
  for (size_t b = 0; b < num_blocks; ++b) {
    const Lane largest =
        hn::GetLane(hn::MaxOfLanes(dm, hn::Load(dm, most + b * lanes)));
    scales[b] =
        ScaleOf(work.rule, Source::Widen(static_cast<uint32_t>(largest)));
    inverses[b] = 1.0f / scales[b];
    finite = finite && std::isfinite(scales[b]);
  }
  std::memcpy(group.scales, scales, num_blocks * sizeof(float));
  for (int64_t row = 0; row < group.rows; ++row) {
    const uint8_t* src = group.src + row * work.src_stride_bytes;
    uint8_t* dst = group.dst + row * work.dst_stride_bytes;
    for (size_t b = 0; b < num_blocks; ++b) {
      const int64_t count = width(b);
      if (HWY_LIKELY(finite || std::isfinite(scales[b]))) {
        QuantiseRow<Source>(src, dst, count, hn::Set(DF32(), inverses[b]));
      } else {
        QuantiseNonFiniteRow<Source>(src, dst, count, scales[b]);
      }
      src += count * Source::kItemBytes;
      dst += count;
    }
  }
}

template <class Source>
void QuantiseFrom(const BlockQuantisation& work) {
  const int64_t band_rows = std::min(work.block_rows, work.rows);
  const int64_t block_bytes = std::max<int64_t>(
      band_rows * std::min(work.block_cols, work.cols) * Source::kItemBytes, 1);
  const int64_t group_cols =
      std::clamp<int64_t>(kGroupBytes / block_bytes, 1, kMaxGroup) *
      std::min(work.block_cols, work.cols);
  std::byte* scales_row = work.scales;
  for (int64_t row = 0; row < work.rows; row += band_rows) {
    std::byte* scales = scales_row;
    for (int64_t col = 0; col < work.cols; col += group_cols) {
      const Group group{.src = reinterpret_cast<const uint8_t*>(work.src) +
                               row * work.src_stride_bytes +
                               col * Source::kItemBytes,
                        .dst = reinterpret_cast<uint8_t*>(work.dst) +
                               row * work.dst_stride_bytes + col,
                        .scales = scales,
                        .rows = std::min(band_rows, work.rows - row),
                        .cols = std::min(group_cols, work.cols - col)};
      QuantiseGroup<Source>(work, group);
      scales += (group.cols + work.block_cols - 1) / work.block_cols *
                static_cast<int64_t>(sizeof(float));
    }
    scales_row += work.scales_stride_bytes;
  }
}

void QuantiseBlocks(const BlockQuantisation& work) {
  if (work.src_dtype == DType::kBF16) return QuantiseFrom<BF16Source>(work);
  if (work.src_dtype == DType::kF16) return QuantiseFrom<F16Source>(work);
  return QuantiseFrom<F32Source>(work);
}

}  // namespace weft::convert::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::convert::cpu {

HWY_EXPORT(QuantiseBlocks);

void QuantiseBlocks(const BlockQuantisation& work) {
  HWY_DYNAMIC_DISPATCH(QuantiseBlocks)(work);
}

}  // namespace weft::convert::cpu
#endif  // HWY_ONCE
