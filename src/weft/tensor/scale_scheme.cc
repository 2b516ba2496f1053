#include "weft/tensor/scale_scheme.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::tensor {
namespace {

Range BlocksAlong(const Range& elements, int64_t block) {
  if (elements.extent() == 0) {
    return {elements.begin / block, elements.begin / block};
  }
  return {elements.begin / block, (elements.end - 1) / block + 1};
}

Range WholeBlocksAlong(const Range& elements, int64_t block, int64_t extent) {
  const int64_t begin = (elements.begin + block - 1) / block;
  const int64_t end = elements.end == extent ? (extent + block - 1) / block
                                             : elements.end / block;
  return {begin, std::max(begin, end)};
}

Range ElementsAlong(const Range& blocks, int64_t block, int64_t extent) {
  return {std::min(blocks.begin * block, extent),
          std::min(blocks.end * block, extent)};
}

}  // namespace

std::string_view ScaleRuleWord(ScaleRule rule) {
  return rule == ScaleRule::kFloat ? "float" : "power_of_two";
}

std::optional<ScaleRule> ParseScaleRule(std::string_view word) {
  for (const ScaleRule rule : {ScaleRule::kFloat, ScaleRule::kPowerOfTwo}) {
    if (word == ScaleRuleWord(rule)) return rule;
  }
  return std::nullopt;
}

absl::Status CheckScheme(const ScaleScheme& scheme) {
  if (scheme.block_rows < 0 || scheme.block_cols < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a scale for ", scheme.block_rows, " x ",
                     scheme.block_cols, " elements makes no sense"));
  }
  if (scheme.rule != ScaleRule::kFloat &&
      scheme.rule != ScaleRule::kPowerOfTwo) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scale rule ", static_cast<int>(scheme.rule), " is unknown"));
  }
  return absl::OkStatus();
}

Shape BlockShape(const ScaleScheme& scheme, const Shape& shape) {
  const auto along = [](int64_t block, int64_t extent) {
    return block > 0 ? block : std::max<int64_t>(extent, 1);
  };
  return {along(scheme.block_rows, shape[0]),
          along(scheme.block_cols, shape[1])};
}

absl::StatusOr<Shape> ScaleShape(const ScaleScheme& scheme,
                                 const Shape& shape) {
  if (shape.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "only matrices have block scales, not shape ", ShapeToString(shape)));
  }
  const Shape block = BlockShape(scheme, shape);
  return Shape{(shape[0] + block[0] - 1) / block[0],
               (shape[1] + block[1] - 1) / block[1]};
}

Box BlocksOf(const ScaleScheme& scheme, const Shape& shape, const Box& box) {
  const Shape block = BlockShape(scheme, shape);
  const Range ranges[] = {BlocksAlong(box.range(0), block[0]),
                          BlocksAlong(box.range(1), block[1])};
  return *Box::Make(ranges);
}

Box WholeBlocksIn(const ScaleScheme& scheme, const Shape& shape,
                  const Box& box) {
  const Shape block = BlockShape(scheme, shape);
  const Range ranges[] = {WholeBlocksAlong(box.range(0), block[0], shape[0]),
                          WholeBlocksAlong(box.range(1), block[1], shape[1])};
  return *Box::Make(ranges);
}

Box ElementsOf(const ScaleScheme& scheme, const Shape& shape,
               const Box& blocks) {
  const Shape block = BlockShape(scheme, shape);
  const Range ranges[] = {ElementsAlong(blocks.range(0), block[0], shape[0]),
                          ElementsAlong(blocks.range(1), block[1], shape[1])};
  return *Box::Make(ranges);
}

std::string ToString(const ScaleScheme& scheme) {
  const auto side = [](int64_t block) {
    return block > 0 ? absl::StrCat(block) : std::string("*");
  };
  return absl::StrCat(
      side(scheme.block_rows), "x", side(scheme.block_cols),
      scheme.rule == ScaleRule::kFloat ? " f32" : " power of two");
}

}  // namespace weft::tensor
