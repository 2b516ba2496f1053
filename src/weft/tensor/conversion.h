// A change of dtype or of values that both ends' contracts ask for. A
// description: the kernels are in room `convert`.
#ifndef WEFT_TENSOR_CONVERSION_H_
#define WEFT_TENSOR_CONVERSION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "weft/tensor/dtype.h"

namespace weft::tensor {

// What is done to a value before it is rounded to the destination's dtype.
// Computed in f32 from the source's value. Written into manifests: never
// renumber.
enum class Transform : uint8_t {
  kNone = 0,
  kNegExp = 1,    // -exp(x), rounded once (vLLM's Mamba `A`, from A_log)
  kPlusOne = 2,   // x + 1
  kMinusOne = 3,  // x - 1 (a norm that keeps gamma - 1)
};

// "-exp(x)"; "x" for kNone.
std::string_view TransformName(Transform transform);
// The word for it in recipes, in Python and in JSON: "none", "neg_exp".
std::string_view TransformWord(Transform transform);
// Inverse of TransformWord; nullopt for another word.
std::optional<Transform> ParseTransform(std::string_view word);
// A value read from outside, or nullopt if there is no such transform.
std::optional<Transform> TransformFromCode(uint8_t code);

// From a value stored as src(x) to one stored as dst(x), for the same logical
// x. nullopt if there is none: -exp is not undone.
std::optional<Transform> ComposeTransforms(Transform src, Transform dst);

struct Conversion {
  DType from = DType::kBF16;
  DType to = DType::kBF16;
  Transform transform = Transform::kNone;
  bool identity() const { return from == to && transform == Transform::kNone; }
  friend bool operator==(const Conversion&, const Conversion&) = default;
};

// True when some value of `from` has no exact image in `to` (round to nearest
// even): F32 -> BF16 is lossy, BF16 -> F32 is not, F16 <-> BF16 both are; so
// is every transform.
bool IsLossy(const Conversion& conversion);

// OK for identity, for casts and transforms among BF16, F16, F32, and for the
// exponents of scales, F32 -> F8_E8M0: a power of two becomes its biased
// exponent, exactly; another magnitude that of the power of two below it, what
// is not finite 0xff (NaN), and a sign is lost. Else kUnimplemented with both
// names.
absl::Status CheckSupported(const Conversion& conversion);

// "F32 -> BF16", "F32 -> F32 as -exp(x)".
std::string ToString(const Conversion& conversion);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_CONVERSION_H_
