// The scales that a quantised checkpoint has beside its matrices: how their
// names and shapes tell what each is quantised by. Private to this room.
#ifndef WEFT_RECIPE_CHECKPOINT_SCALES_H_
#define WEFT_RECIPE_CHECKPOINT_SCALES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "weft/base/status.h"
#include "weft/recipe/table_expander.h"
#include "weft/tensor/scale_scheme.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::recipe {

// By name; the specs live elsewhere.
using HeldTensors =
    absl::flat_hash_map<std::string_view, const tensor::TensorSpec*>;

struct CheckpointScales {
  LogicalTensor logical;
  tensor::ScaleScheme scheme;
};

// The scales that `held` has of `matrix`, as a logical tensor; nullopt if it
// has none. By their names and shapes, for a matrix [N, K]:
//
//   <name>_scale_inv                   blocks of 128 x 128, whatever the shape
//   <name>_scale [N, 1], [N]           a scale for each row
//   <name>_scale [1, 1], [1], []       a scale for all of it
//
// Adds a fault for scales of another shape, which then count as one for each
// row, and for scales of both names.
absl::StatusOr<std::optional<CheckpointScales>> FindScales(
    const LogicalTensor& matrix, const HeldTensors& held,
    base::FaultList& faults);

// Adds a fault for dtypes that a matrix and its scales cannot have. Either may
// be null: it is missing.
void CheckScaleDTypes(const tensor::TensorSpec* matrix,
                      const tensor::TensorSpec* scales,
                      base::FaultList& faults);

// Takes from `unknown`, tensors that the recipe does not know, those that are
// scales of activations or of the KV cache, and adds one fault for all.
void TakeOtherScales(std::vector<const tensor::TensorSpec*>& unknown,
                     base::FaultList& faults);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_CHECKPOINT_SCALES_H_
