// QuantiseRound (quantise_round.h) where stages and target lie on a GPU.
#ifndef WEFT_EXECUTE_QUANTISE_ROUND_DEVICE_H_
#define WEFT_EXECUTE_QUANTISE_ROUND_DEVICE_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/execute/executor.h"
#include "weft/plan/stages.h"

namespace weft::execute {

// `staging`: the stages of round `round`, on GPU `device`, as all of `local`
// that the round writes. kDeadlineExceeded: the GPU may still write.
absl::Status QuantiseRoundOnDevice(int device, const plan::StagedTarget& staged,
                                   const manifest::Placement& target,
                                   size_t round, const std::byte* staging,
                                   absl::Span<const LocalStored> local,
                                   const DeviceOptions& options,
                                   base::Deadline deadline);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_QUANTISE_ROUND_DEVICE_H_
