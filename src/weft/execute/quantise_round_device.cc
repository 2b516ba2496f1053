#include "weft/execute/quantise_round_device.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/copy_box.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

namespace cuda = convert::cuda;
using plan::QuantiseStep;
using tensor::Box;
using tensor::DType;

constexpr int64_t kAlignBytes = 256;

// One output of a step: written at once where the target holds all of it as
// rows, else through scratch, from which copies take it further.
struct Written {
  std::byte* base = nullptr;
  int64_t stride_bytes = 0;
  int64_t scratch_bytes = 0;
};

class RoundCompiler {
 public:
  RoundCompiler(const plan::StagedTarget& staged,
                const manifest::Placement& target, const std::byte* staging,
                absl::Span<const LocalStored> local)
      : staged_(staged), target_(target), staging_(staging), local_(local) {}

  int64_t ScratchBytes(const QuantiseStep& step) const {
    return Place(step.elements, step.box, DType::kF8E4M3, nullptr)
               .scratch_bytes +
           Place(step.scales, step.blocks, DType::kF32, nullptr).scratch_bytes;
  }

  // Uses ScratchBytes(step) at `scratch`.
  absl::Status Add(const QuantiseStep& step, std::byte* scratch) {
    const DType dtype = staged_.placement.stored[step.stage].dtype;
    const tensor::Shape block =
        tensor::BlockShape(step.scheme, target_.tensors[step.tensor].shape);
    const Written elements =
        Place(step.elements, step.box, DType::kF8E4M3, scratch);
    scratch += elements.scratch_bytes;
    const Written scales =
        Place(step.scales, step.blocks, DType::kF32, scratch);
    cuda::Quantisation work;
    work.block.src = staging_ + step.stage_offset_bytes;
    work.block.src_dtype = dtype;
    work.block.rows = step.box.extent(0);
    work.block.cols = step.box.extent(1);
    work.block.src_stride_bytes = work.block.cols * tensor::ItemBytes(dtype);
    work.block.block_rows = block[0];
    work.block.block_cols = block[1];
    work.block.rule = step.scheme.rule;
    work.block.dst = elements.base;
    work.block.dst_stride_bytes = elements.stride_bytes;
    work.block.scales = scales.base;
    work.block.scales_stride_bytes = scales.stride_bytes;
    quantise.quantisations.push_back(work);
    if (elements.scratch_bytes > 0) {
      WEFT_RETURN_IF_ERROR(Scatter(step.elements, step.box, elements.base));
    }
    if (scales.scratch_bytes > 0) {
      WEFT_RETURN_IF_ERROR(Scatter(step.scales, step.blocks, scales.base));
    }
    return absl::OkStatus();
  }

  cuda::ProgramSpec quantise;
  cuda::ProgramSpec scatter;  // after it

 private:
  Written Place(absl::Span<const QuantiseStep::Output> outputs, const Box& box,
                DType dtype, std::byte* scratch) const {
    const int64_t item = tensor::ItemBytes(dtype);
    if (outputs.size() == 1) {
      const layout::StoredTensor& stored = target_.stored[outputs[0].stored];
      const std::optional<ElementRows> rows =
          RowsOf(stored.fragments[outputs[0].fragment].map, box);
      if (rows.has_value()) {
        return {local_[outputs[0].stored].base + rows->offset_elements * item,
                rows->stride_elements * item, 0};
      }
    }
    return {scratch, box.extent(1) * item,
            base::AlignUp(box.num_elements() * item, kAlignBytes)};
  }

  absl::Status Scatter(absl::Span<const QuantiseStep::Output> outputs,
                       const Box& box, const std::byte* values) {
    const tensor::Shape origin(box.shape().size(), 0);
    WEFT_ASSIGN_OR_RETURN(const layout::IndexMap from,
                          layout::IndexMap::RowMajor(box, box.shape(), origin));
    for (const QuantiseStep::Output& output : outputs) {
      const layout::StoredTensor& stored = target_.stored[output.stored];
      WEFT_ASSIGN_OR_RETURN(
          const std::vector<convert::StridedCopy> copies,
          CopiesOfCommonBox(from, values, stored.fragments[output.fragment].map,
                            local_[output.stored].base,
                            {stored.dtype, stored.dtype}));
      for (const convert::StridedCopy& copy : copies) {
        scatter.copies.push_back({copy, std::nullopt});
      }
    }
    return absl::OkStatus();
  }

  const plan::StagedTarget& staged_;
  const manifest::Placement& target_;
  const std::byte* const staging_;
  const absl::Span<const LocalStored> local_;
};

}  // namespace

absl::Status QuantiseRoundOnDevice(int device, const plan::StagedTarget& staged,
                                   const manifest::Placement& target,
                                   size_t round, const std::byte* staging,
                                   absl::Span<const LocalStored> local,
                                   const DeviceOptions& options,
                                   base::Deadline deadline) {
  const plan::StageRound& steps = staged.rounds[round];
  const auto of_round = absl::MakeConstSpan(staged.steps)
                            .subspan(steps.first_step, steps.num_steps);
  RoundCompiler compiler(staged, target, staging, local);
  int64_t scratch_bytes = 0;
  for (const QuantiseStep& step : of_round) {
    scratch_bytes += compiler.ScratchBytes(step);
  }
  std::unique_ptr<memory::DeviceBuffer> scratch;
  if (scratch_bytes > 0) {
    WEFT_ASSIGN_OR_RETURN(scratch, memory::DeviceBuffer::Allocate(
                                       *options.driver, device, scratch_bytes));
  }
  std::byte* at = scratch == nullptr ? nullptr : scratch->data();
  for (const QuantiseStep& step : of_round) {
    WEFT_RETURN_IF_ERROR(compiler.Add(step, at));
    at += compiler.ScratchBytes(step);
  }
  std::vector<std::unique_ptr<cuda::Program>> programs;
  for (const cuda::ProgramSpec* spec :
       {&compiler.quantise, &compiler.scatter}) {
    if (spec->quantisations.empty() && spec->copies.empty()) continue;
    WEFT_ASSIGN_OR_RETURN(programs.emplace_back(),
                          options.build(device, *spec, {}));
  }
  // After the programs, so that it goes first and waits for them.
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<memory::DeviceQueue> queue,
                        options.driver->MakeQueue(device));
  for (const auto& program : programs) {
    WEFT_RETURN_IF_ERROR(
        program->Launch(reinterpret_cast<CUstream_st*>(queue->stream()),
                        {.num_sms = options.num_sms}));
  }
  return queue->Wait(deadline, "quantising on the GPU");
}

}  // namespace weft::execute
