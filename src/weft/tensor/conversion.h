// A dtype change that both ends' contracts ask for. A description: the kernels
// are in room `convert`.
#ifndef WEFT_TENSOR_CONVERSION_H_
#define WEFT_TENSOR_CONVERSION_H_

#include <string>

#include "absl/status/status.h"
#include "weft/tensor/dtype.h"

namespace weft::tensor {

struct Conversion {
  DType from = DType::kBF16;
  DType to = DType::kBF16;
  bool identity() const { return from == to; }
  friend bool operator==(const Conversion&, const Conversion&) = default;
};

// True when some value of `from` has no exact image in `to` (round to nearest
// even): F32 -> BF16 is lossy, BF16 -> F32 is not, F16 <-> BF16 both are.
bool IsLossy(const Conversion& conversion);

// OK for identity and for casts among BF16, F16, F32; else kUnimplemented with
// both names.
absl::Status CheckSupported(const Conversion& conversion);

// "F32 -> BF16".
std::string ToString(const Conversion& conversion);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_CONVERSION_H_
