// Block FP8 by the plain path: whole matrices, one element after another, with
// an arithmetic of its own, so that `weft verify` can judge the kernels.
#ifndef WEFT_APPS_PLAIN_QUANTISE_H_
#define WEFT_APPS_PLAIN_QUANTISE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/tensor/scale_scheme.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::apps {

struct PlainQuantised {
  std::vector<uint8_t> elements;  // E4M3, row-major
  std::vector<float> scales;      // row-major over blocks
};

// `matrix` (BF16, F16 or F32, as the checkpoint holds it) at stand-in step
// `step`, quantised by `scheme` (docs/decisions/0010-block-fp8.md).
absl::StatusOr<PlainQuantised> QuantisePlainly(
    const tensor::TensorSpec& matrix, const tensor::ScaleScheme& scheme,
    const checkpoint::Checkpoint& checkpoint, int64_t step);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLAIN_QUANTISE_H_
