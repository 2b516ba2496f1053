// Element types of stored tensors, under the names that safetensors uses.
#ifndef WEFT_TENSOR_DTYPE_H_
#define WEFT_TENSOR_DTYPE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace weft::tensor {

// The numeric values are written into manifests: never renumber.
enum class DType : uint8_t {
  kBool = 0,
  kU8 = 1,
  kI8 = 2,
  kU16 = 3,
  kI16 = 4,
  kU32 = 5,
  kI32 = 6,
  kU64 = 7,
  kI64 = 8,
  kF8E4M3 = 9,
  kF8E5M2 = 10,
  kF16 = 11,
  kBF16 = 12,
  kF32 = 13,
  kF64 = 14,
  kF8E8M0 = 15,
};

// Bytes of one element: 1, 2, 4 or 8.
int64_t ItemBytes(DType dtype);
// Safetensors name: "BF16", "F8_E4M3".
std::string_view DTypeName(DType dtype);
// Inverse of DTypeName; nullopt for a name that Weft does not know.
std::optional<DType> ParseDType(std::string_view name);
// A value read from outside, or nullopt if no such dtype exists.
std::optional<DType> DTypeFromCode(uint8_t code);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_DTYPE_H_
