// The plain path: what one rank holds, gathered element by element from a
// checkpoint after the recipe's tables. Slow and obvious by intention: `weft
// verify` judges the planner, the executor and the kernels with it, so it uses
// none of them.
#ifndef WEFT_APPS_PLAIN_CUT_H_
#define WEFT_APPS_PLAIN_CUT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/layout/scaled_tensor.h"
#include "weft/layout/stored_tensor.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::manifest {
struct Placement;
}
namespace weft::session {
struct RankMemory;
}

namespace weft::apps {

struct LoadedModel;

// All bytes of `stored` at stand-in step `step`: for each fragment the
// elements of its logical tensor, stepped (stand_in_step.h), then cast to the
// stored dtype; zero where no fragment lies. `tensors`: what the fragments
// refer to, with the checkpoint's dtypes and shapes (kInvalidArgument if they
// are not). `scaled`: which of them are quantised here, unless the checkpoint
// has their scales. kNotFound if the checkpoint lacks a tensor; kUnimplemented
// for a cast that does not exist; kInternal if a fragment leaves the logical or
// the stored tensor (a fault of the recipe).
absl::StatusOr<std::vector<std::byte>> CutStored(
    const layout::StoredTensor& stored,
    const std::vector<tensor::TensorSpec>& tensors,
    absl::Span<const layout::ScaledTensor> scaled,
    const checkpoint::Checkpoint& checkpoint, int64_t step);

// The same into `out`, which must have exactly the bytes of `stored`
// (kInvalidArgument otherwise). Its old bytes do not matter.
absl::Status CutStoredInto(const layout::StoredTensor& stored,
                           const std::vector<tensor::TensorSpec>& tensors,
                           absl::Span<const layout::ScaledTensor> scaled,
                           const checkpoint::Checkpoint& checkpoint,
                           int64_t step, absl::Span<std::byte> out);

// The same for all that one rank holds, where it lies in `memory`.
absl::Status CutInto(const LoadedModel& model,
                     const manifest::Placement& placement, int64_t step,
                     const session::RankMemory& memory);

// Where element `stored_index` (row-major) of `stored` comes from:
// "model.norm.weight[17]", or "padding" if no fragment covers it.
std::string OriginOf(const layout::StoredTensor& stored,
                     const std::vector<tensor::TensorSpec>& tensors,
                     int64_t stored_index);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLAIN_CUT_H_
