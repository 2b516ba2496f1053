// Workloads, one thread, kernels of convert/cpu:
//   convert/copy-contiguous   1 GiB, one row
//   convert/copy-8KiB-runs    rows of 8 KiB out of rows of 16 KiB
//   convert/copy-256B-runs    pieces of 256 B out of rows of 512 B
//   convert/bf16-to-f32, convert/f32-to-bf16   contiguous casts
// Bound: memcpy of as many bytes as are read plus written, halved.
#include <chrono>
#include <cstring>
#include <memory>

#include "bench_case.h"
#include "weft/base/status.h"
#include "weft/convert/kernel.h"
#include "weft/memory/buffer.h"

namespace weft::bench {
namespace {

struct Workload {
  const char* name;
  int64_t run_bytes;    // 0 = all contiguous
  int64_t pitch_bytes;  // of the source
  tensor::Conversion conversion;
};

constexpr Workload kWorkloads[] = {
    {"convert/copy-contiguous", 0, 0, {}},
    {"convert/copy-8KiB-runs", 8192, 16384, {}},
    {"convert/copy-256B-runs", 256, 512, {}},
    {"convert/bf16-to-f32", 0, 0, {tensor::DType::kBF16, tensor::DType::kF32}},
    {"convert/f32-to-bf16", 0, 0, {tensor::DType::kF32, tensor::DType::kBF16}},
};

convert::StridedCopy MakeCopy(const Workload& work, const std::byte* src,
                              std::byte* dst, int64_t bytes) {
  convert::StridedCopy copy;
  copy.src = src;
  copy.dst = dst;
  copy.conversion = work.conversion;
  const int64_t src_item = tensor::ItemBytes(work.conversion.from);
  const int64_t dst_item = tensor::ItemBytes(work.conversion.to);
  // Two buffers of `bytes`: the wider side sets how many elements fit.
  const int64_t elements = bytes / std::max(src_item, dst_item);
  if (work.run_bytes == 0) {
    copy.modes = {{elements, src_item, dst_item}};
  } else {
    const int64_t rows = bytes / work.pitch_bytes;
    copy.modes = {{rows, work.pitch_bytes, work.run_bytes},
                  {work.run_bytes / src_item, src_item, dst_item}};
  }
  return copy;
}

// Mean of bytes read and written: comparable with memcpy's bytes.
double MovedBytes(const convert::StridedCopy& copy) {
  double elements = 1;
  for (const convert::CopyMode& mode : copy.modes) {
    elements *= static_cast<double>(mode.extent);
  }
  return elements *
         static_cast<double>(tensor::ItemBytes(copy.conversion.from) +
                             tensor::ItemBytes(copy.conversion.to)) /
         2;
}

}  // namespace

absl::Status BenchConvert(const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::Buffer> src,
      memory::Buffer::Allocate(memory::MemoryKind::kShared, options.bytes));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::Buffer> dst,
      memory::Buffer::Allocate(memory::MemoryKind::kShared, options.bytes));
  std::memset(src->data(), 0x3f, static_cast<size_t>(options.bytes));
  for (const Workload& work : kWorkloads) {
    const convert::StridedCopy copy =
        MakeCopy(work, src->data(), dst->data(), options.bytes);
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunPaired(
            work.name, "GB/s", options.runs,
            [&]() -> absl::StatusOr<double> {
              const auto start = std::chrono::steady_clock::now();
              convert::CpuKernels().Copy(copy);
              return MovedBytes(copy) /
                     std::chrono::duration<double>(
                         std::chrono::steady_clock::now() - start)
                         .count() /
                     1e9;
            },
            [&]() -> absl::StatusOr<double> {
              return MemcpyRate(options.bytes / 2, 1);
            }));
    Print(result, options);
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
