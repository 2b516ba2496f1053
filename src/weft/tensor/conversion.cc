#include "weft/tensor/conversion.h"

#include "absl/strings/str_cat.h"

namespace weft::tensor {
namespace {

bool IsCastable(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

}  // namespace

bool IsLossy(const Conversion& conversion) {
  return !conversion.identity() && conversion.to != DType::kF32;
}

absl::Status CheckSupported(const Conversion& conversion) {
  if (conversion.identity()) return absl::OkStatus();
  if (IsCastable(conversion.from) && IsCastable(conversion.to)) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("no conversion ", ToString(conversion),
                   "; supported are casts among BF16, F16 and F32"));
}

std::string ToString(const Conversion& conversion) {
  return absl::StrCat(std::string(DTypeName(conversion.from)), " -> ",
                      std::string(DTypeName(conversion.to)));
}

}  // namespace weft::tensor
