// How a tensor of 8-bit floats and a tensor of scales stand for real values:
//
//   value(i, j) = q(i, j) * s(i / block_rows, j / block_cols)
//
// A description: the kernels are in room `convert`.
#ifndef WEFT_TENSOR_SCALE_SCHEME_H_
#define WEFT_TENSOR_SCALE_SCHEME_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/tensor/box.h"

namespace weft::tensor {

// What scales a quantiser chooses, from the largest magnitude `amax` of the
// block in f32 (docs/decisions/0010-block-fp8.md). Written into manifests:
// never renumber.
enum class ScaleRule : uint8_t {
  // max(amax, 1e-4) * fl32(1/448): what CUDA computes for a division by 448.
  kFloat = 0,
  // That, rounded up to a power of two (UE8M0 holds it exactly).
  kPowerOfTwo = 1,
};

// The word for it in Python and in JSON: "float", "power_of_two".
std::string_view ScaleRuleWord(ScaleRule rule);
// Inverse of ScaleRuleWord; nullopt for another word.
std::optional<ScaleRule> ParseScaleRule(std::string_view word);

struct ScaleScheme {
  // Elements that share a scale; 0 = the whole dimension. 128 x 128 is block
  // FP8, 1 x 0 one scale a row ("per channel"), 0 x 0 one a tensor.
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  ScaleRule rule = ScaleRule::kFloat;
  friend bool operator==(const ScaleScheme&, const ScaleScheme&) = default;
};

// kInvalidArgument for negative sizes or an unknown rule.
absl::Status CheckScheme(const ScaleScheme& scheme);

// Block sizes with 0 resolved for a matrix of `shape` (rank 2; an empty
// dimension has blocks of 1).
Shape BlockShape(const ScaleScheme& scheme, const Shape& shape);

// Shape of the scales of a matrix: blocks along each dimension, rounded up.
// kInvalidArgument unless `shape` has rank 2.
absl::StatusOr<Shape> ScaleShape(const ScaleScheme& scheme, const Shape& shape);

// The blocks that `box` (of a matrix of `shape`) touches, as a box of scales.
Box BlocksOf(const ScaleScheme& scheme, const Shape& shape, const Box& box);
// The blocks all of whose elements `box` has, as a box of scales; those at the
// matrix's ends count as whole. Empty if there are none.
Box WholeBlocksIn(const ScaleScheme& scheme, const Shape& shape,
                  const Box& box);
// The elements of the blocks `blocks`, clipped to the matrix.
Box ElementsOf(const ScaleScheme& scheme, const Shape& shape,
               const Box& blocks);

// "128x128 f32", "1x* power of two".
std::string ToString(const ScaleScheme& scheme);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_SCALE_SCHEME_H_
