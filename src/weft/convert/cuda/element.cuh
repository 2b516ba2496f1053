// Values on the device: the casts of Kernels::Copy and the quantiser's
// arithmetic, bit for bit those of convert/reference.
#ifndef WEFT_CONVERT_CUDA_ELEMENT_CUH_
#define WEFT_CONVERT_CUDA_ELEMENT_CUH_

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

#include "weft/tensor/conversion.h"
#include "weft/tensor/dtype.h"

namespace weft::convert::cuda {

inline constexpr uint32_t kInfinityBits = 0x7f800000u;
inline constexpr uint32_t kQuietBit = 0x00400000u;
inline constexpr uint32_t kMagnitudeBits = 0x7fffffffu;

__device__ __forceinline__ bool IsNanBits(uint32_t bits) {
  return (bits & kMagnitudeBits) > kInfinityBits;
}

__device__ __forceinline__ uint32_t QuietBits(uint32_t bits) {
  return IsNanBits(bits) ? bits | kQuietBit : bits;
}

__device__ __forceinline__ uint32_t Bf16ToBits(uint32_t half) {
  return QuietBits(half << 16);
}

__device__ __forceinline__ uint32_t F16ToBits(uint32_t half) {
  if ((half & 0x7fffu) > 0x7c00u) {
    return (half & 0x8000u) << 16 | kInfinityBits | kQuietBit |
           (half & 0x3ffu) << 13;
  }
  return __float_as_uint(
      __half2float(__ushort_as_half(static_cast<unsigned short>(half))));
}

// The value stored as `bits` of dtype `from`, as the bits of an f32.
__device__ __forceinline__ uint32_t ToBits(tensor::DType from, uint32_t bits) {
  if (from == tensor::DType::kBF16) return Bf16ToBits(bits);
  if (from == tensor::DType::kF16) return F16ToBits(bits);
  return QuietBits(bits);
}

// The bits of dtype `to` nearest to an f32. The instructions of the device
// would make every NaN the same one.
__device__ __forceinline__ uint32_t FromBits(tensor::DType to, uint32_t bits) {
  if (to == tensor::DType::kF32) return bits;
  const uint32_t sign = bits >> 16 & 0x8000u;
  if (to == tensor::DType::kBF16) {
    if (IsNanBits(bits)) return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  }
  if (IsNanBits(bits)) {
    return sign | 0x7e00u | (bits >> 13 & 0x3ffu);
  }
  return __half_as_ushort(__float2half_rn(__uint_as_float(bits)));
}

__device__ __forceinline__ uint32_t TransformBits(tensor::Transform transform,
                                                  uint32_t bits) {
  if (IsNanBits(bits)) return bits | kQuietBit;
  const float value = __uint_as_float(bits);
  switch (transform) {
    case tensor::Transform::kNegExp:
      return __float_as_uint(
          __double2float_rn(-exp(static_cast<double>(value))));
    case tensor::Transform::kPlusOne:
      return __float_as_uint(__fadd_rn(value, 1.0f));
    case tensor::Transform::kMinusOne:
      return __float_as_uint(__fadd_rn(value, -1.0f));
    default:
      return bits;
  }
}

struct Caster {
  tensor::DType from;
  tensor::DType to;
  tensor::Transform transform;

  __device__ __forceinline__ uint32_t operator()(uint32_t bits) const {
    uint32_t value = ToBits(from, bits);
    if (transform != tensor::Transform::kNone) {
      value = TransformBits(transform, value);
    }
    return FromBits(to, value);
  }
};

__device__ __forceinline__ int ItemOf(tensor::DType dtype) {
  return dtype == tensor::DType::kF32 ? 4 : 2;
}

// Bits of an element of `item` bytes (at most 8) at any address.
__device__ __forceinline__ uint64_t LoadItem(const std::byte* src, int item,
                                             bool aligned) {
  if (!aligned) {
    uint64_t bits = 0;
    for (int i = 0; i < item; ++i) {
      bits |= static_cast<uint64_t>(src[i]) << (8 * i);
    }
    return bits;
  }
  switch (item) {
    case 1:
      return *reinterpret_cast<const uint8_t*>(src);
    case 2:
      return *reinterpret_cast<const uint16_t*>(src);
    case 4:
      return *reinterpret_cast<const uint32_t*>(src);
    default:
      return *reinterpret_cast<const uint64_t*>(src);
  }
}

__device__ __forceinline__ void StoreItem(std::byte* dst, int item,
                                          bool aligned, uint64_t bits) {
  if (!aligned) {
    for (int i = 0; i < item; ++i) {
      dst[i] = static_cast<std::byte>(bits >> (8 * i));
    }
    return;
  }
  switch (item) {
    case 1:
      *reinterpret_cast<uint8_t*>(dst) = static_cast<uint8_t>(bits);
      return;
    case 2:
      *reinterpret_cast<uint16_t*>(dst) = static_cast<uint16_t>(bits);
      return;
    case 4:
      *reinterpret_cast<uint32_t*>(dst) = static_cast<uint32_t>(bits);
      return;
    default:
      *reinterpret_cast<uint64_t*>(dst) = bits;
  }
}

__device__ __forceinline__ bool IsAligned(const void* at, unsigned bytes) {
  return reinterpret_cast<uintptr_t>(at) % bytes == 0;
}

// The scale of a block whose largest magnitude has these bits.
__device__ __forceinline__ float ScaleOf(uint32_t amax_bits,
                                         bool power_of_two) {
  if (amax_bits > kInfinityBits) return __uint_as_float(0x7fc00000u);
  if (amax_bits == kInfinityBits) return __uint_as_float(kInfinityBits);
  const float scale =
      __fmul_rn(fmaxf(__uint_as_float(amax_bits), 1e-4f), 0x1.24924ap-9f);
  if (!power_of_two) return scale;
  // Never subnormal: 1e-4 / 448 is above 2^-23.
  const uint32_t bits = __float_as_uint(scale);
  return __uint_as_float((bits + 0x007fffffu) & kInfinityBits);
}

// E4M3 of two values, each times `inverse`; the first in the low byte. Only
// where `special` (a block that is not finite) can a product be NaN, whose sign
// the instruction would lose.
__device__ __forceinline__ uint32_t QuantisePair(uint32_t bits0, uint32_t bits1,
                                                 float inverse, bool special) {
  const float2 scaled = {__fmul_rn(__uint_as_float(bits0), inverse),
                         __fmul_rn(__uint_as_float(bits1), inverse)};
  uint32_t codes = __nv_cvt_float2_to_fp8x2(scaled, __NV_SATFINITE, __NV_E4M3);
  if (special) {
    if (isnan(scaled.x)) codes = (codes & 0xff00u) | 0x7fu;
    if (isnan(scaled.y)) codes = (codes & 0x00ffu) | 0x7f00u;
    codes = (codes & 0x7f7fu) | (bits0 >> 24 & 0x80u) | (bits1 >> 16 & 0x8000u);
  }
  return codes;
}

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_ELEMENT_CUH_
