#include "weft/convert/cpu/convert_row.h"

#include <algorithm>
#include <cstring>

#include "weft/convert/cpu/simd.h"
#include "weft/convert/transform.h"

namespace weft::convert::cpu {
namespace {

using tensor::DType;

// CastRow, or a copy where there is nothing to cast.
void CastOrCopy(DType from, DType to, const std::byte* src, std::byte* dst,
                int64_t count) {
  if (from != to) return CastRow({from, to}, src, dst, count);
  std::memcpy(dst, src, static_cast<size_t>(count * tensor::ItemBytes(to)));
}

// One value at a time: what is transformed are vectors of a few elements.
void TransformRow(const tensor::Conversion& conversion, const std::byte* src,
                  std::byte* dst, int64_t count) {
  constexpr int64_t kPiece = 256;
  float values[kPiece];
  auto* const bytes = reinterpret_cast<std::byte*>(values);
  for (int64_t done = 0; done < count; done += kPiece) {
    const int64_t piece = std::min(kPiece, count - done);
    CastOrCopy(conversion.from, DType::kF32,
               src + done * tensor::ItemBytes(conversion.from), bytes, piece);
    for (int64_t i = 0; i < piece; ++i) {
      values[i] = ApplyTransform(conversion.transform, values[i]);
    }
    CastOrCopy(DType::kF32, conversion.to, bytes,
               dst + done * tensor::ItemBytes(conversion.to), piece);
  }
}

}  // namespace

void ConvertRow(const tensor::Conversion& conversion, const std::byte* src,
                std::byte* dst, int64_t count) {
  if (conversion.transform == tensor::Transform::kNone) {
    return CastRow(conversion, src, dst, count);
  }
  TransformRow(conversion, src, dst, count);
}

}  // namespace weft::convert::cpu
