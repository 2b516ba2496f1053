#include <cstddef>
#include <cstdint>
#include <cstring>

#include "weft/convert/cpu/simd.h"
#include "weft/tensor/conversion.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/convert/cpu/cast_row.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::convert::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using tensor::DType;

// All casts go through the bits of an f32 in 32-bit lanes, which holds every
// bf16 and f16 exactly, so that there is one rounding. Integer arithmetic
// throughout (but for subnormal f16): the half-precision instructions differ
// between targets, and some flush or truncate.
using D32 = hn::ScalableTag<uint32_t>;
using V32 = hn::Vec<D32>;

inline constexpr uint32_t kInfinity = 0x7f800000u;
inline constexpr uint32_t kQuietBit = 0x00400000u;
inline constexpr uint32_t kSignBit = 0x80000000u;

struct FromBF16 {
  using Lane = uint16_t;
  static HWY_INLINE V32 Load(const uint8_t* src) {
    const D32 d;
    const hn::Rebind<uint16_t, D32> d16;
    const hn::Repartition<uint8_t, decltype(d16)> d8;
    const auto half = hn::BitCast(d16, hn::LoadU(d8, src));
    return hn::ShiftLeft<16>(hn::PromoteTo(d, half));
  }
};

struct FromF16 {
  using Lane = uint16_t;
  static HWY_INLINE V32 Load(const uint8_t* src) {
    const D32 d;
    const hn::Rebind<float, D32> df;
    const hn::Rebind<uint16_t, D32> d16;
    const hn::Repartition<uint8_t, decltype(d16)> d8;
    const auto half = hn::PromoteTo(d, hn::BitCast(d16, hn::LoadU(d8, src)));
    const auto magnitude = hn::And(half, hn::Set(d, 0x7fffu));
    const auto sign = hn::ShiftLeft<16>(hn::Xor(half, magnitude));
    // Normal: shift the exponent and mantissa, then correct the bias.
    const auto shifted = hn::ShiftLeft<13>(magnitude);
    const auto normal = hn::Add(shifted, hn::Set(d, (127u - 15u) << 23));
    // Infinity and NaN: the largest exponent, not the corrected one.
    const auto special = hn::Or(shifted, hn::Set(d, kInfinity));
    // Subnormal: 2^-14 + mantissa, from which 2^-14 is taken exactly.
    const auto least_normal = hn::Set(d, (127u - 14u) << 23);
    const auto subnormal =
        hn::BitCast(d, hn::Sub(hn::BitCast(df, hn::Or(shifted, least_normal)),
                               hn::BitCast(df, least_normal)));
    auto bits =
        hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, 0x7bffu)), special, normal);
    bits =
        hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0x0400u)), subnormal, bits);
    return hn::Or(bits, sign);
  }
};

struct FromF32 {
  using Lane = uint32_t;
  static HWY_INLINE V32 Load(const uint8_t* src) {
    const hn::Repartition<uint8_t, D32> d8;
    return hn::BitCast(D32(), hn::LoadU(d8, src));
  }
};

HWY_INLINE hn::Mask<D32> IsNaN(V32 magnitude) {
  return hn::Gt(magnitude, hn::Set(D32(), kInfinity));
}

// The low 16 bits of each lane.
HWY_INLINE void StoreHalves(V32 lanes, uint8_t* dst) {
  const hn::Rebind<uint16_t, D32> d16;
  const hn::Rebind<int32_t, D32> di32;
  const hn::Repartition<uint8_t, decltype(d16)> d8;
  // DemoteTo saturates; values below 2^16 pass as they are.
  hn::StoreU(hn::BitCast(d8, hn::DemoteTo(d16, hn::BitCast(di32, lanes))), d8,
             dst);
}

struct ToBF16 {
  using Lane = uint16_t;
  static HWY_INLINE void Store(V32 bits, uint8_t* dst) {
    const D32 d;
    const auto magnitude = hn::AndNot(hn::Set(d, kSignBit), bits);
    const auto even = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
    const auto rounded = hn::Add(bits, hn::Add(even, hn::Set(d, 0x7fffu)));
    const auto quiet = hn::Or(bits, hn::Set(d, kQuietBit));
    StoreHalves(
        hn::ShiftRight<16>(hn::IfThenElse(IsNaN(magnitude), quiet, rounded)),
        dst);
  }
};

struct ToF16 {
  using Lane = uint16_t;
  static HWY_INLINE void Store(V32 bits, uint8_t* dst) {
    const D32 d;
    const hn::Rebind<float, D32> df;
    const auto magnitude = hn::AndNot(hn::Set(d, kSignBit), bits);
    const auto sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));
    // Normal: correct the bias and round at bit 13; the carry may run into
    // the exponent, and from 65520 on into infinity.
    const auto even = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 1u));
    const auto rebiased =
        hn::Sub(magnitude, hn::Set(d, ((127u - 15u) << 23) - 0xfffu));
    const auto normal = hn::ShiftRight<13>(hn::Add(rebiased, even));
    // Below 2^-14: adding 1/2 leaves the value, rounded to multiples of 2^-24
    // as every f16 subnormal is, in the low bits.
    const auto half = hn::Set(d, 126u << 23);
    const auto subnormal = hn::Sub(
        hn::BitCast(d,
                    hn::Add(hn::BitCast(df, magnitude), hn::BitCast(df, half))),
        half);
    const auto infinity = hn::Set(d, 0x7c00u);
    const auto payload =
        hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 0x03ffu));
    const auto nan = hn::Or(hn::Set(d, 0x7e00u), payload);
    auto result = hn::IfThenElse(
        hn::Lt(magnitude, hn::Set(d, (127u - 14u) << 23)), subnormal, normal);
    result =
        hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, ((127u + 16u) << 23) - 1u)),
                       infinity, result);
    result = hn::IfThenElse(IsNaN(magnitude), nan, result);
    StoreHalves(hn::Or(result, sign), dst);
  }
};

struct ToF32 {
  using Lane = uint32_t;
  static HWY_INLINE void Store(V32 bits, uint8_t* dst) {
    const D32 d;
    const hn::Repartition<uint8_t, D32> d8;
    const auto magnitude = hn::AndNot(hn::Set(d, kSignBit), bits);
    const auto quiet =
        hn::IfThenElseZero(IsNaN(magnitude), hn::Set(d, kQuietBit));
    hn::StoreU(hn::BitCast(d8, hn::Or(bits, quiet)), d8, dst);
  }
};

// Biased exponents: all that a scale that is a power of two has.
struct ToE8M0 {
  using Lane = uint8_t;
  static HWY_INLINE void Store(V32 bits, uint8_t* dst) {
    const D32 d;
    const hn::Rebind<uint8_t, D32> d8;
    const hn::Rebind<int32_t, D32> di32;
    const auto exponent =
        hn::And(hn::ShiftRight<23>(bits), hn::Set(d, uint32_t{0xff}));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(di32, exponent)), d8, dst);
  }
};

template <class From, class To>
HWY_INLINE void Cast(const std::byte* src_bytes, std::byte* dst_bytes,
                     int64_t count) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D32()));
  constexpr int64_t kSrcItem = sizeof(typename From::Lane);
  constexpr int64_t kDstItem = sizeof(typename To::Lane);
  const auto* src = reinterpret_cast<const uint8_t*>(src_bytes);
  auto* dst = reinterpret_cast<uint8_t*>(dst_bytes);
  if (count < lanes) {
    HWY_ALIGN uint8_t src_copy[HWY_MAX_BYTES] = {};
    HWY_ALIGN uint8_t dst_copy[HWY_MAX_BYTES];
    std::memcpy(src_copy, src, static_cast<size_t>(count * kSrcItem));
    To::Store(From::Load(src_copy), dst_copy);
    std::memcpy(dst, dst_copy, static_cast<size_t>(count * kDstItem));
    return;
  }
  for (int64_t i = 0; i + lanes <= count; i += lanes) {
    To::Store(From::Load(src + i * kSrcItem), dst + i * kDstItem);
  }
  // The last vector may do some elements twice, with the same result.
  const int64_t last = count - lanes;
  To::Store(From::Load(src + last * kSrcItem), dst + last * kDstItem);
}

template <class From>
HWY_INLINE void CastFrom(DType to, const std::byte* src, std::byte* dst,
                         int64_t count) {
  if (to == DType::kBF16) return Cast<From, ToBF16>(src, dst, count);
  if (to == DType::kF16) return Cast<From, ToF16>(src, dst, count);
  return Cast<From, ToF32>(src, dst, count);
}

void CastRow(const tensor::Conversion& conversion, const std::byte* src,
             std::byte* dst, int64_t count) {
  if (conversion.from == DType::kBF16) {
    return CastFrom<FromBF16>(conversion.to, src, dst, count);
  }
  if (conversion.from == DType::kF16) {
    return CastFrom<FromF16>(conversion.to, src, dst, count);
  }
  if (conversion.to == DType::kF8E8M0) {
    return Cast<FromF32, ToE8M0>(src, dst, count);
  }
  return CastFrom<FromF32>(conversion.to, src, dst, count);
}

}  // namespace weft::convert::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::convert::cpu {

HWY_EXPORT(CastRow);

void CastRow(const tensor::Conversion& conversion, const std::byte* src,
             std::byte* dst, int64_t count) {
  HWY_DYNAMIC_DISPATCH(CastRow)(conversion, src, dst, count);
}

}  // namespace weft::convert::cpu
#endif  // HWY_ONCE
