// The plain cut and the stand-in step over the memory of a session's rank.
#include "load_model.h"
#include "plain_cut.h"
#include "stand_in_step.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"
#include "weft/session/memory_area.h"

namespace weft::apps {
namespace {

absl::StatusOr<absl::Span<std::byte>> StoredSpan(
    const manifest::Placement& placement, const session::RankMemory& memory,
    std::size_t index) {
  WEFT_ASSIGN_OR_RETURN(const int64_t bytes,
                        session::StoredBytes(placement.stored[index]));
  return absl::MakeSpan(session::StoredBase(memory, index),
                        static_cast<std::size_t>(bytes));
}

}  // namespace

absl::Status CutInto(const LoadedModel& model,
                     const manifest::Placement& placement, int64_t step,
                     const session::RankMemory& memory) {
  for (std::size_t i = 0; i < placement.stored.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(const absl::Span<std::byte> bytes,
                          StoredSpan(placement, memory, i));
    WEFT_RETURN_IF_ERROR(CutStoredInto(placement.stored[i], placement.tensors,
                                       placement.scaled, model.checkpoint, step,
                                       bytes));
  }
  return absl::OkStatus();
}

absl::Status ApplyStandInStep(const manifest::Placement& placement,
                              const session::RankMemory& memory,
                              int64_t from_step, int64_t to_step) {
  for (std::size_t i = 0; i < placement.stored.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(const absl::Span<std::byte> bytes,
                          StoredSpan(placement, memory, i));
    WEFT_RETURN_IF_ERROR(ApplyStep(placement.stored[i], placement.tensors,
                                   from_step, to_step, bytes));
  }
  return absl::OkStatus();
}

}  // namespace weft::apps
