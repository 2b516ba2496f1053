#include "weft/recipe/quant_choice.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace weft::recipe {

std::string_view QuantChoice::suffix() const {
  return scheme.block_rows > 1 && scheme.block_cols > 0 ? kBlockScaleSuffix
                                                        : kScaleSuffix;
}

SchemeWords WordsOf(const tensor::ScaleScheme& scheme) {
  if (scheme.block_cols > 0) {
    return {"fp8-block", "a scale for each block of 128 x 128"};
  }
  if (scheme.block_rows > 0) return {"fp8-channel", "a scale for each row"};
  return {"fp8-tensor", "one scale"};
}

absl::StatusOr<std::optional<QuantChoice>> QuantOf(const LayoutSpec& spec) {
  const std::string quant = spec.Word("quant", "none");
  const std::string scales = spec.Word("scales", "f32");
  if (quant == "none") {
    if (scales == "f32") return std::nullopt;
    return absl::InvalidArgumentError(
        absl::StrCat(spec.ToString(), ": scales=", scales,
                     " is of quantised matrices; give quant= as well"));
  }
  QuantChoice choice;
  choice.words = absl::StrCat("quant=", quant);
  if (scales != "f32") absl::StrAppend(&choice.words, ",scales=", scales);
  if (quant == "fp8-channel") choice.scheme = {1, 0};
  if (quant == "fp8-tensor") choice.scheme = {0, 0};
  if (scales != "f32") choice.scheme.rule = tensor::ScaleRule::kPowerOfTwo;
  if (scales == "ue8m0") choice.form = ScaleForm::kE8M0;
  if (scales == "ue8m0-packed") choice.form = ScaleForm::kPacked;
  if (choice.form != ScaleForm::kF32 && quant != "fp8-block") {
    return absl::InvalidArgumentError(absl::StrCat(
        spec.ToString(), ": scales=", scales,
        " is of blocks, not of quant=", quant, "; give scales=f32-pow2"));
  }
  return choice;
}

}  // namespace weft::recipe
