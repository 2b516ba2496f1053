#include "weft/recipe/checkpoint_scales.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "weft/recipe/quant_choice.h"

namespace weft::recipe {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorSpec;

constexpr tensor::ScaleScheme kARow{1, 0};
constexpr tensor::ScaleScheme kATensor{0, 0};

// What engines multiply activations, queries or the KV cache by.
constexpr std::array<std::string_view, 7> kOtherScales = {
    "input_scale", "input_scale_ub", "output_scale", "q_scale",
    "k_scale",     "v_scale",        "prob_scale"};

const TensorSpec* Find(const HeldTensors& held, const std::string& name) {
  const auto found = held.find(name);
  return found == held.end() ? nullptr : found->second;
}

// By the shape of `<name>_scale` beside a matrix of `matrix`.
std::optional<tensor::ScaleScheme> SchemeOf(const Shape& scales,
                                            const Shape& matrix) {
  const bool is_one = scales.size() <= 2 &&
                      std::all_of(scales.begin(), scales.end(),
                                  [](int64_t extent) { return extent == 1; });
  if (is_one) return kATensor;
  if (scales == Shape{matrix[0], 1} || scales == Shape{matrix[0]}) return kARow;
  return std::nullopt;
}

std::string Quoted(const std::string& name) {
  return absl::StrCat("\"", name, "\"");
}

}  // namespace

absl::StatusOr<std::optional<CheckpointScales>> FindScales(
    const LogicalTensor& matrix, const HeldTensors& held,
    base::FaultList& faults) {
  if (!matrix.quant) return std::nullopt;
  const std::string& name = matrix.spec.name;
  const Shape& shape = matrix.spec.shape;
  const std::string of_blocks =
      absl::StrCat(name, std::string(kBlockScaleSuffix));
  const std::string plain = absl::StrCat(name, std::string(kScaleSuffix));
  const TensorSpec* const scales = Find(held, plain);
  const bool has_blocks = held.contains(of_blocks);
  if (scales == nullptr && !has_blocks) return std::nullopt;
  CheckpointScales result;
  result.logical.spec.name = has_blocks ? of_blocks : plain;
  result.logical.spec.dtype = DType::kF32;
  result.logical.dtype_pinned = true;
  result.logical.where = matrix.where;
  if (has_blocks) {
    if (scales != nullptr) {
      faults.Add(absl::StrCat("tensor ", Quoted(name), " has scales twice: ",
                              Quoted(of_blocks), " and ", Quoted(plain)));
    }
    WEFT_ASSIGN_OR_RETURN(result.logical.spec.shape,
                          tensor::ScaleShape(result.scheme, shape));
    return result;
  }
  const std::optional<tensor::ScaleScheme> scheme =
      SchemeOf(scales->shape, shape);
  if (!scheme) {
    faults.Add(absl::StrCat(
        "tensor ", Quoted(plain), " has the shape ",
        tensor::ShapeToString(scales->shape), ", but ", Quoted(name), " ",
        tensor::ShapeToString(shape), " has ",
        tensor::ShapeToString(Shape{shape[0], 1}), " or [", shape[0],
        "] for a scale a row, [1] or [] for one scale; those of blocks of 128 "
        "x 128 are named ",
        Quoted(of_blocks)));
  }
  result.scheme = scheme.value_or(kARow);
  result.logical.spec.shape = scales->shape;
  // DTensor cuts them as the rows that they are of. FSDP2 knows no parameter
  // without a dimension: that is a buffer.
  if (result.scheme == kARow && matrix.tp == TpCut::kRows) {
    result.logical.tp = TpCut::kRows;
  }
  result.logical.shard = !scales->shape.empty();
  return result;
}

void CheckScaleDTypes(const TensorSpec* matrix, const TensorSpec* scales,
                      base::FaultList& faults) {
  if (matrix == nullptr || scales == nullptr) return;
  if (matrix->dtype != DType::kF8E4M3) {
    faults.Add(absl::StrCat("tensor ", Quoted(matrix->name), " is ",
                            std::string(tensor::DTypeName(matrix->dtype)),
                            " but has scales ", Quoted(scales->name),
                            " beside it, which only F8_E4M3 has here"));
  }
  if (scales->name.ends_with(kBlockScaleSuffix)) return;
  const bool is_known = scales->dtype == DType::kF32 ||
                        scales->dtype == DType::kBF16 ||
                        scales->dtype == DType::kF16;
  if (!is_known) {
    faults.Add(absl::StrCat("tensor ", Quoted(scales->name), " is ",
                            std::string(tensor::DTypeName(scales->dtype)),
                            ", but scales are F32, BF16 or F16"));
  }
}

void TakeOtherScales(std::vector<const TensorSpec*>& unknown,
                     base::FaultList& faults) {
  const auto is_other = [](const TensorSpec* spec) {
    std::string_view word = spec->name;
    word.remove_prefix(word.rfind('.') + 1);  // all of it without a dot
    return std::find(kOtherScales.begin(), kOtherScales.end(), word) !=
           kOtherScales.end();
  };
  const auto taken = std::stable_partition(
      unknown.begin(), unknown.end(),
      [&](const TensorSpec* spec) { return !is_other(spec); });
  const auto count = static_cast<int64_t>(unknown.end() - taken);
  if (count == 0) return;
  faults.Add(absl::StrCat(
      "tensor ", Quoted((*taken)->name),
      count > 1 ? absl::StrCat(" and ", count - 1, " more are") : " is",
      " of a kind that is not carried: scales of activations or of the KV "
      "cache; an engine would keep its old ones, so give a checkpoint without "
      "them (dynamic activation scales)"));
  unknown.erase(taken, unknown.end());
}

}  // namespace weft::recipe
