// A stand-in for an optimiser: a change of every weight that anyone can
// recompute. Version s of a logical tensor has the bits
//
//   bits(s)[i] = bits(0)[i] XOR m(i, s),      bits(0) = the checkpoint
//   m(i, 0) = 0
//   m(i, s) = ((h(i) + s) mod 7) + 1          for s >= 1
//   h(i)    = uint32(i * 2654435761) >> 16
//
// where i is the row-major index in the logical tensor, so that the version
// does not depend on any layout. For floats of 2 and 4 bytes, in the
// checkpoint's dtype, before any cast; other dtypes keep their bits. Two
// consecutive versions differ in every element.
#ifndef WEFT_APPS_STAND_IN_STEP_H_
#define WEFT_APPS_STAND_IN_STEP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/layout/stored_tensor.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::manifest {
struct Placement;
}
namespace weft::session {
struct RankMemory;
}

namespace weft::apps {

// m(i, s); requires s >= 0.
uint32_t StepMask(int64_t logical_index, int64_t step);

// Whether elements of `dtype` change from step to step.
bool HasSteps(tensor::DType dtype);

// Takes contiguous items of a logical tensor, the first of row-major index
// `logical_begin`, from version `from_step` to `to_step`, in place.
void StepItems(tensor::DType dtype, int64_t logical_begin, int64_t from_step,
               int64_t to_step, absl::Span<std::byte> items);

// Takes a rank's stored tensor from version `from_step` to `to_step`, in
// place. `tensors`: what the fragments refer to, with the checkpoint's dtypes;
// `data`: all bytes of the stored tensor. What no fragment covers is left
// alone. kUnimplemented where the stored bits do not tell the logical ones: a
// stored dtype that is neither the logical one nor F32 of BF16 (cut the
// version from the checkpoint instead). kInvalidArgument if `data` is too
// short or a step negative.
absl::Status ApplyStep(const layout::StoredTensor& stored,
                       const std::vector<tensor::TensorSpec>& tensors,
                       int64_t from_step, int64_t to_step,
                       absl::Span<std::byte> data);

// The same for all that one rank holds, where it lies in `memory`. On a
// failure some tensors may have been stepped.
absl::Status ApplyStandInStep(const manifest::Placement& placement,
                              const session::RankMemory& memory,
                              int64_t from_step, int64_t to_step);

}  // namespace weft::apps

#endif  // WEFT_APPS_STAND_IN_STEP_H_
