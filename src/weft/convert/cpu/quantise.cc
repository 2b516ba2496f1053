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
using D32 = hn::Repartition<uint32_t, D8>;
using DI32 = hn::Repartition<int32_t, D8>;
using DF32 = hn::Repartition<float, D8>;
using V8 = hn::Vec<D8>;
using V32 = hn::Vec<D32>;
using VF32 = hn::Vec<DF32>;

inline constexpr int64_t kLineBytes = 64;
// Blocks beside each other are measured, then converted, together: two of 128 x
// 128 bf16, which are still near when they are read again, and of which a row
// is long enough to be fetched ahead.
inline constexpr int64_t kGroupBytes = int64_t{64} << 10;
inline constexpr int64_t kMaxGroup = 64;
// Elements of a matrix whose codes are written around the caches, as copies of
// that size are (cpu_kernels.cc).
inline constexpr int64_t kStreamElements = int64_t{512} << 10;

// --- Rounding a magnitude to a code.

// The bias of 121 is that of the exponent of the least normal value, 2^-6,
// below which values are as far apart as there. Each code is returned with
// kExcess added, which pairs take off together.
inline constexpr uint32_t kLeastExponent = (127u - 6u) << 23;
inline constexpr uint32_t kExcess = kLeastExponent >> 20;

// `magnitude` >= 0 and no more than 464. Added to 2^20 times its power of two,
// a value keeps just three of the 24 bits of a float behind its first, and the
// processor rounds to even.
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

// --- The three kinds of source: a vector of codes, with signs, of as many
// elements. 16-bit elements are taken apart into even and odd ones, whose codes
// share a 32-bit lane.

HWY_INLINE V32 LoadWords(const uint8_t* src) {
  return hn::BitCast(D32(), hn::LoadU(D8(), src));
}

// The codes of the elements of `words`, each in the lower byte of its place.
HWY_INLINE V32 PairOfCodes(V32 words, VF32 even, VF32 odd, VF32 inverse) {
  const D32 d;
  const auto even_code = ExcessCode(hn::Mul(even, inverse));
  const auto odd_code = ExcessCode(hn::Mul(odd, inverse));
  const auto codes = hn::Sub(hn::Add(even_code, hn::ShiftLeft<16>(odd_code)),
                             hn::Set(d, kExcess * 0x10001u));
  const auto signs = hn::And(hn::ShiftRight<8>(words), hn::Set(d, 0x00800080u));
  return hn::Or(codes, signs);
}

HWY_INLINE V8 JoinPairs(V32 first, V32 second) {
  const D8 d;
  return hn::ConcatEven(d, hn::BitCast(d, second), hn::BitCast(d, first));
}

HWY_INLINE int64_t VectorBytes() {
  return static_cast<int64_t>(hn::Lanes(D8()));
}

struct BF16Source {
  static constexpr int64_t kItemBytes = 2;
  static HWY_INLINE V32 Pairs(const uint8_t* src, VF32 inverse) {
    const D32 d;
    const DF32 df;
    const auto words = LoadWords(src);
    const auto even = hn::ShiftLeft<16>(hn::And(words, hn::Set(d, 0x7fffu)));
    const auto odd = hn::And(words, hn::Set(d, 0x7fff0000u));
    return PairOfCodes(words, hn::BitCast(df, even), hn::BitCast(df, odd),
                       inverse);
  }
  static HWY_INLINE V8 Codes(const uint8_t* src, VF32 inverse) {
    return JoinPairs(Pairs(src, inverse), Pairs(src + VectorBytes(), inverse));
  }
  static float Widen(uint32_t magnitude) {
    return std::bit_cast<float>(magnitude << 16);
  }
};

struct F16Source {
  static constexpr int64_t kItemBytes = 2;
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
  static HWY_INLINE V32 Pairs(const uint8_t* src, VF32 inverse) {
    const D32 d;
    const auto words = LoadWords(src);
    const auto even = hn::And(words, hn::Set(d, 0x7fffu));
    const auto odd = hn::And(hn::ShiftRight<16>(words), hn::Set(d, 0x7fffu));
    return PairOfCodes(words, Promote(even), Promote(odd), inverse);
  }
  static HWY_INLINE V8 Codes(const uint8_t* src, VF32 inverse) {
    return JoinPairs(Pairs(src, inverse), Pairs(src + VectorBytes(), inverse));
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
  static HWY_INLINE V32 Lanes(const uint8_t* src, VF32 inverse) {
    const D32 d;
    const DF32 df;
    const auto words = LoadWords(src);
    const auto magnitude =
        hn::BitCast(df, hn::And(words, hn::Set(d, 0x7fffffffu)));
    const auto code =
        hn::Sub(ExcessCode(hn::Mul(magnitude, inverse)), hn::Set(d, kExcess));
    return hn::Or(code, hn::And(hn::ShiftRight<24>(words), hn::Set(d, 0x80u)));
  }
  static HWY_INLINE V8 Codes(const uint8_t* src, VF32 inverse) {
    const D8 d8;
    const int64_t step = VectorBytes();
    const auto lower =
        JoinPairs(Lanes(src, inverse), Lanes(src + step, inverse));
    const auto upper = JoinPairs(Lanes(src + 2 * step, inverse),
                                 Lanes(src + 3 * step, inverse));
    return hn::ConcatEven(d8, upper, lower);
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

template <class Source, bool kStream>
HWY_INLINE void QuantiseRow(const uint8_t* src, uint8_t* dst, int64_t count,
                            float inverse_scale) {
  const D8 d;
  const auto inverse = hn::Set(DF32(), inverse_scale);
  const int64_t chunk = VectorBytes();
  if (count < chunk) {
    HWY_ALIGN uint8_t src_copy[Source::kItemBytes * HWY_MAX_BYTES] = {};
    HWY_ALIGN uint8_t dst_copy[HWY_MAX_BYTES];
    std::memcpy(src_copy, src, static_cast<size_t>(count * Source::kItemBytes));
    hn::Store(Source::Codes(src_copy, inverse), d, dst_copy);
    std::memcpy(dst, dst_copy, static_cast<size_t>(count));
    return;
  }
  int64_t i = 0;
  for (; i + chunk <= count; i += chunk) {
    const auto codes = Source::Codes(src + i * Source::kItemBytes, inverse);
    if constexpr (kStream) {
      hn::Stream(codes, d, dst + i);
    } else {
      hn::StoreU(codes, d, dst + i);
    }
  }
  if (i == count) return;
  // The last vector does some elements twice, with the same result.
  const int64_t last = count - chunk;
  hn::StoreU(Source::Codes(src + last * Source::kItemBytes, inverse), d,
             dst + last);
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

// Blocks beside each other in one row of blocks: these elements.
struct Group {
  int64_t row = 0;
  int64_t col = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

// What one matrix comes to: its groups, each found from the one before.
struct Grouping {
  const BlockQuantisation& work;
  int64_t item_bytes;
  int64_t band_rows;
  int64_t group_cols;

  Grouping(const BlockQuantisation& of, int64_t item)
      : work(of),
        item_bytes(item),
        band_rows(std::min(of.block_rows, of.rows)),
        group_cols(std::min(of.block_cols, of.cols)) {
    const int64_t block_bytes = band_rows * group_cols * item_bytes;
    group_cols *= std::clamp<int64_t>(kGroupBytes / block_bytes, 1, kMaxGroup);
  }

  Group At(int64_t row, int64_t col) const {
    return {row, col, std::min(band_rows, work.rows - row),
            std::min(group_cols, work.cols - col)};
  }
  // Has no rows behind the last one.
  Group Next(const Group& group) const {
    return group.col + group_cols < work.cols
               ? At(group.row, group.col + group_cols)
               : At(group.row + band_rows, 0);
  }
  const uint8_t* Src(const Group& group, int64_t row) const {
    return reinterpret_cast<const uint8_t*>(work.src) +
           (group.row + row) * work.src_stride_bytes + group.col * item_bytes;
  }
  uint8_t* Dst(const Group& group, int64_t row) const {
    return reinterpret_cast<uint8_t*>(work.dst) +
           (group.row + row) * work.dst_stride_bytes + group.col;
  }
  std::byte* Scales(const Group& group) const {
    return work.scales +
           group.row / work.block_rows * work.scales_stride_bytes +
           group.col / work.block_cols * static_cast<int64_t>(sizeof(float));
  }
  size_t NumBlocks(const Group& group) const {
    return static_cast<size_t>((group.cols + work.block_cols - 1) /
                               work.block_cols);
  }
  // Columns of the group's block `block`.
  int64_t Width(const Group& group, size_t block) const {
    return std::min(work.block_cols,
                    group.cols - static_cast<int64_t>(block) * work.block_cols);
  }
};

struct Scales {
  bool finite = true;  // all of them
  float scale[kMaxGroup];
  float inverse[kMaxGroup];
};

template <class Source>
void MeasureGroup(const Grouping& grouping, const Group& group,
                  Scales& scales) {
  using DM = MagnitudeTag<Source>;
  using Lane = hn::TFromD<DM>;
  const DM d;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN Lane most[kMaxGroup * (HWY_MAX_BYTES / sizeof(Lane))];
  const size_t num_blocks = grouping.NumBlocks(group);
  for (size_t b = 0; b < num_blocks; ++b) {
    hn::Store(hn::Zero(d), d, most + b * lanes);
  }
  for (int64_t row = 0; row < group.rows; ++row) {
    const uint8_t* src = grouping.Src(group, row);
    for (size_t b = 0; b < num_blocks; ++b) {
      const int64_t bytes = grouping.Width(group, b) * Source::kItemBytes;
      hn::Store(LargestOfRow<Source>(src, bytes, hn::Load(d, most + b * lanes)),
                d, most + b * lanes);
      src += bytes;
    }
  }
  scales.finite = true;
  for (size_t b = 0; b < num_blocks; ++b) {
    const Lane largest =
        hn::GetLane(hn::MaxOfLanes(d, hn::Load(d, most + b * lanes)));
    scales.scale[b] = ScaleOf(grouping.work.rule,
                              Source::Widen(static_cast<uint32_t>(largest)));
    scales.inverse[b] = 1.0f / scales.scale[b];
    scales.finite = scales.finite && std::isfinite(scales.scale[b]);
  }
}

template <class Source, bool kStream>
void ConvertGroup(const Grouping& grouping, const Group& group,
                  const Scales& scales) {
  // What is measured next is fetched meanwhile, into the second cache (for
  // which Highway has no word): this pass is all arithmetic, that one all
  // memory.
  const Group next = grouping.Next(group);
  const size_t num_blocks = grouping.NumBlocks(group);
  for (int64_t row = 0; row < group.rows; ++row) {
    if (row < next.rows) {
      const uint8_t* line = grouping.Src(next, row);
      const uint8_t* end = line + next.cols * Source::kItemBytes;
      for (; line < end; line += kLineBytes) __builtin_prefetch(line, 0, 2);
    }
    const uint8_t* src = grouping.Src(group, row);
    uint8_t* dst = grouping.Dst(group, row);
    for (size_t b = 0; b < num_blocks; ++b) {
      const int64_t count = grouping.Width(group, b);
      if (HWY_LIKELY(scales.finite || std::isfinite(scales.scale[b]))) {
        QuantiseRow<Source, kStream>(src, dst, count, scales.inverse[b]);
      } else {
        QuantiseNonFiniteRow<Source>(src, dst, count, scales.scale[b]);
      }
      src += count * Source::kItemBytes;
      dst += count;
    }
  }
}

// Whether to write around the caches: as in RowsCopy, for a destination that
// does not stay in them, where all vectors lie within lines.
bool Streams(const BlockQuantisation& work) {
  const uintptr_t places = reinterpret_cast<uintptr_t>(work.dst) |
                           static_cast<uintptr_t>(work.dst_stride_bytes) |
                           static_cast<uintptr_t>(work.block_cols);
  return work.rows * work.cols >= kStreamElements && places % kLineBytes == 0;
}

template <class Source>
void QuantiseFrom(const BlockQuantisation& work) {
  if (work.rows == 0 || work.cols == 0) return;
  const bool stream = Streams(work);
  const Grouping grouping(work, Source::kItemBytes);
  Scales scales;
  for (Group group = grouping.At(0, 0); group.rows > 0;
       group = grouping.Next(group)) {
    MeasureGroup<Source>(grouping, group, scales);
    std::memcpy(grouping.Scales(group), scales.scale,
                grouping.NumBlocks(group) * sizeof(float));
    if (stream) {
      ConvertGroup<Source, true>(grouping, group, scales);
    } else {
      ConvertGroup<Source, false>(grouping, group, scales);
    }
  }
  if (stream) FlushStreams();
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
