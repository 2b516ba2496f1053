// Quantises the stages of one round into the target's stored tensors.
#ifndef WEFT_EXECUTE_QUANTISE_ROUND_H_
#define WEFT_EXECUTE_QUANTISE_ROUND_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/convert/kernel.h"
#include "weft/execute/executor.h"
#include "weft/manifest/placement.h"
#include "weft/plan/stages.h"

namespace weft::execute {

// `staging`: the memory in which the stages of round `round` lie, filled.
// `local`: the stored tensors of `target`. Uses `num_threads` threads; the
// bytes do not depend on how many. kResourceExhausted when an output needs too
// many runs.
absl::Status QuantiseRound(const plan::StagedTarget& staged,
                           const manifest::Placement& target, size_t round,
                           const std::byte* staging,
                           absl::Span<const LocalStored> local,
                           const convert::Kernels& kernels, int num_threads);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_QUANTISE_ROUND_H_
