#include "weft/tensor/conversion.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace weft::tensor {
namespace {

// By code.
constexpr std::string_view kTransformWords[] = {"none", "neg_exp", "plus_one",
                                                "minus_one"};

bool IsCastable(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

}  // namespace

std::string_view TransformName(Transform transform) {
  switch (transform) {
    case Transform::kNone:
      return "x";
    case Transform::kNegExp:
      return "-exp(x)";
    case Transform::kPlusOne:
      return "x + 1";
    case Transform::kMinusOne:
      return "x - 1";
  }
  return "?";
}

std::string_view TransformWord(Transform transform) {
  return kTransformWords[static_cast<size_t>(transform)];
}

std::optional<Transform> ParseTransform(std::string_view word) {
  for (uint8_t code = 0; code < std::size(kTransformWords); ++code) {
    if (word == kTransformWords[code]) return static_cast<Transform>(code);
  }
  return std::nullopt;
}

std::optional<Transform> TransformFromCode(uint8_t code) {
  if (code > static_cast<uint8_t>(Transform::kMinusOne)) return std::nullopt;
  return static_cast<Transform>(code);
}

std::optional<Transform> ComposeTransforms(Transform src, Transform dst) {
  if (src == dst) return Transform::kNone;
  if (src == Transform::kNone) return dst;
  if (dst != Transform::kNone) return std::nullopt;
  if (src == Transform::kPlusOne) return Transform::kMinusOne;
  if (src == Transform::kMinusOne) return Transform::kPlusOne;
  return std::nullopt;
}

bool IsLossy(const Conversion& conversion) {
  return conversion.transform != Transform::kNone ||
         (!conversion.identity() && conversion.to != DType::kF32);
}

absl::Status CheckSupported(const Conversion& conversion) {
  if (conversion.identity()) return absl::OkStatus();
  if (IsCastable(conversion.from) && IsCastable(conversion.to)) {
    return absl::OkStatus();
  }
  if (conversion == Conversion{DType::kF32, DType::kF8E8M0}) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("no conversion ", ToString(conversion),
                   "; supported are casts among BF16, F16 and F32, and from "
                   "F32 to F8_E8M0"));
}

std::string ToString(const Conversion& conversion) {
  std::string text =
      absl::StrCat(std::string(DTypeName(conversion.from)), " -> ",
                   std::string(DTypeName(conversion.to)));
  if (conversion.transform != Transform::kNone) {
    absl::StrAppend(&text, " as ",
                    std::string(TransformName(conversion.transform)));
  }
  return text;
}

}  // namespace weft::tensor
