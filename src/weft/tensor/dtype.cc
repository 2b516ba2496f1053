#include "weft/tensor/dtype.h"

#include <array>
#include <cstddef>

namespace weft::tensor {
namespace {

struct DTypeRow {
  std::string_view name;
  int64_t item_bytes;
};

constexpr std::array<DTypeRow, 16> kRows = {{{"BOOL", 1},
                                             {"U8", 1},
                                             {"I8", 1},
                                             {"U16", 2},
                                             {"I16", 2},
                                             {"U32", 4},
                                             {"I32", 4},
                                             {"U64", 8},
                                             {"I64", 8},
                                             {"F8_E4M3", 1},
                                             {"F8_E5M2", 1},
                                             {"F16", 2},
                                             {"BF16", 2},
                                             {"F32", 4},
                                             {"F64", 8},
                                             {"F8_E8M0", 1}}};

const DTypeRow& Row(DType dtype) {
  return kRows[static_cast<std::size_t>(dtype)];
}

}  // namespace

int64_t ItemBytes(DType dtype) { return Row(dtype).item_bytes; }
std::string_view DTypeName(DType dtype) { return Row(dtype).name; }

std::optional<DType> ParseDType(std::string_view name) {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<DType> DTypeFromCode(uint8_t code) {
  if (code >= kRows.size()) return std::nullopt;
  return static_cast<DType>(code);
}

}  // namespace weft::tensor
