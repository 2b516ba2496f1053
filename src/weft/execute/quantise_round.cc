#include "weft/execute/quantise_round.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "weft/base/run_threads.h"
#include "weft/base/status.h"
#include "weft/execute/copy_box.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/box.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

using layout::IndexMap;
using plan::QuantiseStep;
using tensor::Box;
using tensor::DType;

// Where a kernel writes at once.
struct Rows {
  std::byte* base = nullptr;
  int64_t stride_bytes = 0;
};

// The place of all of `box` in one output, if that is the only one and holds
// it as rows of the kernel's dtype.
std::optional<Rows> SoleRows(absl::Span<const QuantiseStep::Output> outputs,
                             const manifest::Placement& target, const Box& box,
                             DType dtype, absl::Span<const LocalStored> local) {
  if (outputs.size() != 1) return std::nullopt;
  const layout::StoredTensor& stored = target.stored[outputs[0].stored];
  if (stored.dtype != dtype) return std::nullopt;
  const std::optional<ElementRows> rows =
      RowsOf(stored.fragments[outputs[0].fragment].map, box);
  if (!rows.has_value()) return std::nullopt;
  const int64_t item = tensor::ItemBytes(stored.dtype);
  return Rows{local[outputs[0].stored].base + rows->offset_elements * item,
              rows->stride_elements * item};
}

// Copies what `outputs` need of `box`, which lies row-major at `values`, as
// `dtype`.
absl::Status Scatter(absl::Span<const QuantiseStep::Output> outputs,
                     const manifest::Placement& target, const Box& box,
                     DType dtype, const std::byte* values,
                     absl::Span<const LocalStored> local,
                     const convert::Kernels& kernels) {
  const tensor::Shape origin(box.shape().size(), 0);
  WEFT_ASSIGN_OR_RETURN(const IndexMap from,
                        IndexMap::RowMajor(box, box.shape(), origin));
  for (const QuantiseStep::Output& output : outputs) {
    const layout::StoredTensor& stored = target.stored[output.stored];
    WEFT_RETURN_IF_ERROR(CopyCommonBox(
        kernels, from, values, stored.fragments[output.fragment].map,
        local[output.stored].base, {dtype, stored.dtype}));
  }
  return absl::OkStatus();
}

// One thread's work on steps; its buffers grow to the largest.
class StepWorker {
 public:
  StepWorker(const plan::StagedTarget& staged,
             const manifest::Placement& target, const std::byte* staging,
             absl::Span<const LocalStored> local,
             const convert::Kernels& kernels)
      : staged_(staged),
        target_(target),
        staging_(staging),
        local_(local),
        kernels_(kernels) {}

  absl::Status Run(const QuantiseStep& step) {
    const DType dtype = staged_.placement.stored[step.stage].dtype;
    const tensor::Shape block =
        tensor::BlockShape(step.scheme, target_.tensors[step.tensor].shape);
    const std::optional<Rows> elements =
        SoleRows(step.elements, target_, step.box, DType::kF8E4M3, local_);
    const std::optional<Rows> scales =
        SoleRows(step.scales, target_, step.blocks, DType::kF32, local_);
    convert::BlockQuantisation work;
    work.src = staging_ + step.stage_offset_bytes;
    work.src_dtype = dtype;
    work.rows = step.box.extent(0);
    work.cols = step.box.extent(1);
    work.src_stride_bytes = work.cols * tensor::ItemBytes(dtype);
    work.block_rows = block[0];
    work.block_cols = block[1];
    work.rule = step.scheme.rule;
    const Rows to = elements.value_or(
        InBuffer(elements_, step.box, tensor::ItemBytes(DType::kF8E4M3)));
    work.dst = to.base;
    work.dst_stride_bytes = to.stride_bytes;
    const Rows scales_to = scales.value_or(
        InBuffer(scales_, step.blocks, tensor::ItemBytes(DType::kF32)));
    work.scales = scales_to.base;
    work.scales_stride_bytes = scales_to.stride_bytes;
    kernels_.Quantise(work);
    if (!elements.has_value()) {
      WEFT_RETURN_IF_ERROR(Scatter(step.elements, target_, step.box,
                                   DType::kF8E4M3, elements_.data(), local_,
                                   kernels_));
    }
    if (!scales.has_value()) {
      WEFT_RETURN_IF_ERROR(Scatter(step.scales, target_, step.blocks,
                                   DType::kF32, scales_.data(), local_,
                                   kernels_));
    }
    return absl::OkStatus();
  }

 private:
  static Rows InBuffer(std::vector<std::byte>& buffer, const Box& box,
                       int64_t item_bytes) {
    const auto bytes = static_cast<size_t>(box.num_elements() * item_bytes);
    if (buffer.size() < bytes) buffer.resize(bytes);
    return {buffer.data(), box.extent(1) * item_bytes};
  }

  const plan::StagedTarget& staged_;
  const manifest::Placement& target_;
  const std::byte* const staging_;
  const absl::Span<const LocalStored> local_;
  const convert::Kernels& kernels_;
  std::vector<std::byte> elements_;
  std::vector<std::byte> scales_;
};

}  // namespace

absl::Status QuantiseRound(const plan::StagedTarget& staged,
                           const manifest::Placement& target, size_t round,
                           const std::byte* staging,
                           absl::Span<const LocalStored> local,
                           const convert::Kernels& kernels, int num_threads) {
  const plan::StageRound& steps = staged.rounds[round];
  std::atomic<size_t> next{0};
  std::mutex mutex;
  absl::Status failed;
  const auto run = [&] {
    StepWorker worker(staged, target, staging, local, kernels);
    while (true) {
      const size_t i = next.fetch_add(1);
      if (i >= steps.num_steps) return;
      absl::Status status = worker.Run(staged.steps[steps.first_step + i]);
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      failed.Update(std::move(status));
    }
  };
  base::RunThreads(num_threads, steps.num_steps, run);
  return failed;
}

}  // namespace weft::execute
