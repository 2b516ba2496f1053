#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/convert/cpu/mxfp4.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::convert::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::Full128<uint8_t>;

// Sixteen elements: their codes are looked up in both halves of the table.
HWY_INLINE void StoreElements(hn::Vec<D> codes, hn::Vec<D> lower,
                              hn::Vec<D> upper, uint8_t* dst) {
  const D d;
  const auto low = hn::TableLookupBytes(lower, codes);
  const auto high = hn::TableLookupBytes(upper, codes);
  hn::StoreU(hn::InterleaveLower(d, low, high), d, dst);
  hn::StoreU(hn::InterleaveUpper(d, low, high), d, dst + 16);
}

void LookUpMxfp4(const Mxfp4Blocks& work, const Mxfp4Table* tables) {
  const D d;
  const hn::Repartition<uint16_t, D> d16;
  const auto half = hn::Set(d, 0x0fu);
  const auto* src = reinterpret_cast<const uint8_t*>(work.blocks);
  auto* dst = reinterpret_cast<uint8_t*>(work.dst);
  for (int64_t block = 0; block < work.num_blocks; ++block) {
    const Mxfp4Table& table = tables[static_cast<uint8_t>(work.scales[block])];
    const auto lower = hn::LoadU(d, table.lower);
    const auto upper = hn::LoadU(d, table.upper);
    const auto bytes = hn::LoadU(d, src + 16 * block);
    const auto even = hn::And(bytes, half);
    const auto odd = hn::And(
        hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(d16, bytes))), half);
    StoreElements(hn::InterleaveLower(d, even, odd), lower, upper,
                  dst + 64 * block);
    StoreElements(hn::InterleaveUpper(d, even, odd), lower, upper,
                  dst + 64 * block + 32);
  }
}

}  // namespace weft::convert::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::convert::cpu {
namespace {

using Tables = std::array<Mxfp4Table, 256>;

Tables* MakeTables() {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  auto* const tables = new Tables;
  for (int scale = 0; scale < 256; ++scale) {
    for (unsigned code = 0; code < 16; ++code) {
      // Two significant bits, and no less than 2^-128: BF16 holds them, so
      // that the lower half of the float is empty.
      const float value = std::ldexp(kMagnitudes[code % 8], scale - 127);
      const uint32_t bits = (std::bit_cast<uint32_t>(value) >> 16) | code / 8
                                                                         << 15;
      Mxfp4Table& table = (*tables)[static_cast<size_t>(scale)];
      table.lower[code] = static_cast<uint8_t>(bits);
      table.upper[code] = static_cast<uint8_t>(bits >> 8);
    }
  }
  return tables;
}

}  // namespace

HWY_EXPORT(LookUpMxfp4);

void DequantiseMxfp4(const Mxfp4Blocks& work) {
  static const Tables* const tables = MakeTables();
  HWY_DYNAMIC_DISPATCH(LookUpMxfp4)(work, tables->data());
}

}  // namespace weft::convert::cpu
#endif  // HWY_ONCE
