// Made-up weights that anyone can recompute. The value of element i (row-major
// index in the logical tensor) of tensor `name` under `seed` is
//
//   t = FNV-1a-64(name) XOR (seed * 0x9E3779B97F4A7C15)
//   z = Mix(t + (i + 1) * 0x9E3779B97F4A7C15)         all modulo 2^64
//   Mix(z): z = (z XOR z>>30) * 0xBF58476D1CE4E5B9
//           z = (z XOR z>>27) * 0x94D049BB133111EB
//           z =  z XOR z>>31
//   k = 1 + z mod 255                                 1 .. 255
//   value = (z>>63 ? -k : k) * 2^-13
//
// uniform, never zero, of standard deviation 0.018, and exact in BF16, F16 and
// F32: k has eight bits.
#ifndef WEFT_APPS_SYNTHETIC_VALUES_H_
#define WEFT_APPS_SYNTHETIC_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::apps {

// All elements of `spec`, C-contiguous, in its dtype. kUnimplemented unless
// that is BF16, F16 or F32; kInvalidArgument if the shape overflows.
absl::StatusOr<std::vector<std::byte>> SynthesizeTensor(
    const tensor::TensorSpec& spec, uint64_t seed);

}  // namespace weft::apps

#endif  // WEFT_APPS_SYNTHETIC_VALUES_H_
