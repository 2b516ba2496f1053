#include "synthetic_values.h"

#include <array>
#include <cstring>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "scalar_cast.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/tensor/box.h"

namespace weft::apps {
namespace {

using tensor::DType;

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

uint64_t HashOfName(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3u;
  }
  return hash;
}

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

constexpr uint64_t kNumMagnitudes = 255;

// The bits of 1/8192, 2/8192, ... in `dtype`.
std::array<uint32_t, kNumMagnitudes> MagnitudeBits(DType dtype) {
  std::array<uint32_t, kNumMagnitudes> table;
  for (std::size_t k = 0; k < table.size(); ++k) {
    const float value = static_cast<float>(k + 1) / 8192;
    std::memcpy(&table[k], &value, sizeof(value));
    table[k] = CastBits({DType::kF32, dtype}, table[k]);
  }
  return table;
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> SynthesizeTensor(
    const tensor::TensorSpec& spec, uint64_t seed) {
  if (spec.dtype != DType::kBF16 && spec.dtype != DType::kF16 &&
      spec.dtype != DType::kF32) {
    return absl::UnimplementedError(
        absl::StrCat("no values can be made up for \"", spec.name,
                     "\" of dtype ", std::string(tensor::DTypeName(spec.dtype)),
                     "; set torch_dtype to bfloat16, float16 or float32"));
  }
  WEFT_ASSIGN_OR_RETURN(const tensor::Box box,
                        tensor::Box::OfShape(spec.shape));
  const std::optional<int64_t> bytes =
      base::CheckedMul(box.num_elements(), tensor::ItemBytes(spec.dtype));
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", spec.name, "\" of shape ",
                     tensor::ShapeToString(spec.shape),
                     " has more bytes than 64 bits can count"));
  }
  const std::size_t item_bytes =
      static_cast<std::size_t>(tensor::ItemBytes(spec.dtype));
  const std::size_t count = static_cast<std::size_t>(box.num_elements());
  std::vector<std::byte> data(static_cast<std::size_t>(*bytes));
  const auto magnitudes = MagnitudeBits(spec.dtype);
  const uint32_t sign = 1u << (8 * item_bytes - 1);
  uint64_t counter = HashOfName(spec.name) ^ (seed * kGolden);
  for (std::size_t i = 0; i < count; ++i) {
    counter += kGolden;
    const uint64_t z = Mix(counter);
    uint32_t bits = magnitudes[z % kNumMagnitudes];
    if ((z >> 63) != 0) bits |= sign;
    std::memcpy(data.data() + i * item_bytes, &bits, item_bytes);
  }
  return data;
}

}  // namespace weft::apps
