// What a layout says about FP8: how its matrices are quantised, and in what
// form their scales are kept. Private to this room.
#ifndef WEFT_RECIPE_QUANT_CHOICE_H_
#define WEFT_RECIPE_QUANT_CHOICE_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "weft/recipe/layout_spec.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::recipe {

// How an engine keeps the scales of a stored matrix.
enum class ScaleForm {
  kF32,     // a number a block, in the order of the blocks
  kE8M0,    // the same as biased exponents, a byte each
  kPacked,  // biased exponents as DeepGEMM takes them on SM100
};

struct QuantChoice {
  tensor::ScaleScheme scheme;
  ScaleForm form = ScaleForm::kF32;
  std::string words;  // "quant=fp8-block,scales=ue8m0", for messages

  // What the scales are named by, after the matrix's name.
  std::string_view suffix() const;
  // Whether each matrix has a single scale, however its parts are fused.
  bool is_per_tensor() const {
    return scheme.block_rows == 0 && scheme.block_cols == 0;
  }
  tensor::DType scale_dtype() const {
    return form == ScaleForm::kF32 ? tensor::DType::kF32
                                   : tensor::DType::kF8E8M0;
  }
};

// What the scales of matrices in blocks, and of those with a scale a row or a
// tensor, are named by.
inline constexpr std::string_view kBlockScaleSuffix = "_scale_inv";
inline constexpr std::string_view kScaleSuffix = "_scale";

// The quant= of an engine that holds matrices by `scheme` as they are, and in
// words: {"fp8-channel", "a scale for each row"}.
struct SchemeWords {
  std::string_view quant;
  std::string_view scales;
};
SchemeWords WordsOf(const tensor::ScaleScheme& scheme);

// nullopt if the layout says nothing of it. kInvalidArgument for scales= that
// quant= has no use for.
absl::StatusOr<std::optional<QuantChoice>> QuantOf(const LayoutSpec& spec);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_QUANT_CHOICE_H_
