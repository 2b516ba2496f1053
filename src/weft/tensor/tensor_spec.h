// TensorSpec: a logical tensor, under its canonical (Hugging Face checkpoint)
// name, shape and dtype.
#ifndef WEFT_TENSOR_TENSOR_SPEC_H_
#define WEFT_TENSOR_TENSOR_SPEC_H_

#include <string>

#include "weft/tensor/box.h"
#include "weft/tensor/dtype.h"

namespace weft::tensor {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kBF16;
  Shape shape;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// "[4,8]".
std::string ShapeToString(const Shape& shape);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_TENSOR_SPEC_H_
