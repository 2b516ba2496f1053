// Modes: how one logical dimension is laid out in memory.
//
// Notation (after CuTe): a Mode is extent:stride; the modes of one dimension
// are its digits, fastest first, printed `((6,4):(1,8))`. The coordinate i of
// the dimension, 0 <= i < prod extents, is read as a mixed-radix number
//
//   i = i_0 + e_0*(i_1 + e_1*(i_2 + ...)),     0 <= i_k < e_k
//
// and lies at  sum_k i_k * s_k  (elements). Strides may be 0 (a repeated
// source value) but never negative.
#ifndef WEFT_LAYOUT_MODE_H_
#define WEFT_LAYOUT_MODE_H_

#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"

namespace weft::layout {

struct Mode {
  int64_t extent = 1;
  int64_t stride = 0;
  friend bool operator==(const Mode&, const Mode&) = default;
};

// The digits of one dimension, fastest first. Empty stands for extent 1.
using DimModes = absl::InlinedVector<Mode, 2>;

// Product of the extents.
int64_t ExtentOf(const DimModes& modes);
// Offset of coordinate `i`; requires 0 <= i < ExtentOf(modes).
int64_t OffsetOf(const DimModes& modes, int64_t i);
// "(6:1)" or "((6,4):(1,8))".
std::string ToString(const DimModes& modes);

// Fewest digits for the same function:
//   ExtentOf(result) == ExtentOf(modes), and for all i:
//   OffsetOf(result, i) == OffsetOf(modes, i).
// Digits of extent 1 vanish; (a:s),(b:a*s) become (a*b:s).
DimModes Coalesce(const DimModes& modes);

}  // namespace weft::layout

#endif  // WEFT_LAYOUT_MODE_H_
