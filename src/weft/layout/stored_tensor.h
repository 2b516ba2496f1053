// StoredTensor: one buffer as a rank really holds it, and what lies in it.
#ifndef WEFT_LAYOUT_STORED_TENSOR_H_
#define WEFT_LAYOUT_STORED_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/conversion.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::layout {

// "This box of that logical tensor lies here in this stored tensor."
struct Fragment {
  // Index into the list of logical tensors that comes with the stored tensors
  // (manifest::Placement::tensors).
  int32_t tensor = 0;
  IndexMap map;
  // What is stored of a logical value x: x itself, or a function of it.
  tensor::Transform transform = tensor::Transform::kNone;
  friend bool operator==(const Fragment&, const Fragment&) = default;
};

struct StoredTensor {
  std::string name;  // the framework's own, local to the rank
  tensor::DType dtype = tensor::DType::kBF16;
  tensor::Shape shape;  // C-contiguous
  std::vector<Fragment> fragments;
  // Padding: boxes in *stored* coordinates (ranges of `shape`) that hold zero
  // by declaration and come from no logical tensor.
  std::vector<tensor::Box> zero_fill;
  friend bool operator==(const StoredTensor&, const StoredTensor&) = default;
};

// Elements of `stored`, checked; kInvalidArgument on overflow.
absl::StatusOr<int64_t> NumElements(const StoredTensor& stored);

// Proves that the fragments and the zero fills of `stored` write each of its
// elements exactly once, and that every fragment's box lies within the shape
// of its logical tensor. All faults in one kInvalidArgument status; each names
// the stored tensor and the logical tensor and box, or the stored range.
// Empty stored tensors (a dimension of 0) need no fragments.
// Exact, and without a walk over elements where the strides divide each other;
// interleaved fragments whose strides do not are proven up to 2^33 elements
// (tiling_internal.h) and refused beyond.
// For a source, holes are allowed (`allow_holes`): padding that nobody reads.
absl::Status CheckTiling(const StoredTensor& stored,
                         const std::vector<tensor::TensorSpec>& tensors,
                         bool allow_holes);

}  // namespace weft::layout

#endif  // WEFT_LAYOUT_STORED_TENSOR_H_
