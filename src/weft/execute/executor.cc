#include "weft/execute/executor.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/execute/device_program_internal.h"
#include "weft/execute/program_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

// Zeroes the box of a C-contiguous tensor of `shape`, one contiguous stretch
// of the trailing dimensions after another.
void ZeroBox(std::byte* base, const tensor::Shape& shape,
             const tensor::Box& box, int64_t item_bytes) {
  if (box.empty()) return;
  const int rank = box.rank();
  // Dimensions [outer, rank) are one stretch: all but the first are whole.
  int outer = rank;
  int64_t stretch_bytes = item_bytes;
  int64_t pitch_bytes = item_bytes;  // of dimension outer - 1
  while (outer > 0) {
    const bool whole_inside = stretch_bytes == pitch_bytes;
    if (!whole_inside) break;
    --outer;
    stretch_bytes *= box.extent(outer);
    pitch_bytes *= shape[outer];
  }
  tensor::Shape at;
  for (const tensor::Range& range : box.ranges()) at.push_back(range.begin);
  while (true) {
    int64_t offset = 0;
    for (int d = 0; d < rank; ++d) offset = offset * shape[d] + at[d];
    std::memset(base + offset * item_bytes, 0,
                static_cast<size_t>(stretch_bytes));
    int d = outer - 1;
    while (d >= 0 && ++at[d] == box.range(d).end) {
      at[d] = box.range(d).begin;
      --d;
    }
    if (d < 0) return;
  }
}

absl::StatusOr<std::unique_ptr<Program>> Bind(BindInputs inputs,
                                              const convert::Kernels& kernels) {
  WEFT_ASSIGN_OR_RETURN(inputs.device, DeviceOf(inputs));
  if (inputs.device != memory::kHostMemory) return DeviceProgram::Make(inputs);
  return BoundProgram::Make(inputs, kernels);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Program>> BindPull(
    const plan::Plan& plan, const plan::SourceIndex& sources,
    const manifest::Placement& target, const convert::Kernels& kernels,
    absl::Span<const LocalStored> local, absl::Span<const RemoteRank> remotes,
    const ExecuteOptions& options) {
  return Bind({.plan = plan,
               .sources = sources,
               .target = target,
               .direction = Direction::kPull,
               .src_rank = -1,
               .local = local,
               .remotes = remotes,
               .options = options},
              kernels);
}

absl::StatusOr<std::unique_ptr<Program>> BindPush(
    const plan::Plan& plan, const plan::SourceIndex& sources,
    const manifest::Placement& target, const convert::Kernels& kernels,
    int64_t src_rank, absl::Span<const LocalStored> local,
    const RemoteRank& target_rank, const ExecuteOptions& options) {
  for (const plan::ConversionUse& use : plan.conversions) {
    if (use.conversion.to != tensor::DType::kF8E4M3 ||
        use.conversion.identity()) {
      continue;
    }
    return absl::UnimplementedError(absl::StrCat(
        "target rank ", plan.target_rank, " quantises ", use.num_tensors,
        " matrices itself, from memory that nobody can push to; have the "
        "trainer quantise them (quant= of its layout), or let the target "
        "pull"));
  }
  return Bind({.plan = plan,
               .sources = sources,
               .target = target,
               .direction = Direction::kPush,
               .src_rank = src_rank,
               .local = local,
               .remotes = absl::MakeConstSpan(&target_rank, 1),
               .options = options},
              kernels);
}

void ApplyZeroFills(const plan::Plan& plan, const manifest::Placement& target,
                    absl::Span<const LocalStored> local) {
  for (const plan::ZeroFill& fill : plan.zero_fills) {
    if (local[fill.dst_stored].device != memory::kHostMemory) continue;
    const layout::StoredTensor& stored = target.stored[fill.dst_stored];
    ZeroBox(local[fill.dst_stored].base, stored.shape, fill.box,
            tensor::ItemBytes(stored.dtype));
  }
}

}  // namespace weft::execute
