// Workloads, one thread, kernels of convert/cpu:
//   convert/copy-contiguous   1 GiB, one row
//   convert/copy-8KiB-runs    rows of 8 KiB out of rows of 16 KiB
//   convert/copy-256B-runs    pieces of 256 B out of rows of 512 B
//   convert/bf16-to-f32, convert/f32-to-bf16   contiguous casts
//   convert/quantise-128x128   bf16 -> E4M3 with a scale a block, rows of 4096
//   convert/quantise-1x128, convert/quantise-per-row   other blocks
//   convert/quantise-plain-loop   128x128 as a compiler vectorises it at -O2
// Bound: memcpy of as many bytes as are read plus written, halved; for
// quantisation memcpy of the source.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
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

struct Quantisation {
  const char* name;
  int64_t block_rows;
  int64_t block_cols;
  void (*run)(const convert::BlockQuantisation&);
};

void RunKernel(const convert::BlockQuantisation& work) {
  convert::CpuKernels().Quantise(work);
}

float FloatOf(const std::byte* bf16) {
  uint16_t bits = 0;
  std::memcpy(&bits, bf16, sizeof(bits));
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// Finite values no larger than 448.
uint8_t CodeOf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 31 << 7;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude < 121u << 23) {
    return static_cast<uint8_t>(
        sign | static_cast<uint32_t>(std::lrint(std::fabs(value) * 512)));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1);
  return static_cast<uint8_t>(sign | ((rounded - (120u << 23)) >> 20));
}

void RunPlainLoop(const convert::BlockQuantisation& work) {
  for (int64_t row = 0; row < work.rows; row += work.block_rows) {
    for (int64_t col = 0; col < work.cols; col += work.block_cols) {
      const std::byte* src = work.src + row * work.src_stride_bytes + col * 2;
      std::byte* dst = work.dst + row * work.dst_stride_bytes + col;
      float amax = 1e-4f;
      for (int64_t r = 0; r < work.block_rows; ++r) {
        for (int64_t c = 0; c < work.block_cols; ++c) {
          const float value = FloatOf(src + r * work.src_stride_bytes + c * 2);
          amax = std::max(amax, std::fabs(value));
        }
      }
      const float scale = amax / 448;
      const float inverse = 1 / scale;
      for (int64_t r = 0; r < work.block_rows; ++r) {
        for (int64_t c = 0; c < work.block_cols; ++c) {
          const float value = FloatOf(src + r * work.src_stride_bytes + c * 2);
          dst[r * work.dst_stride_bytes + c] =
              std::byte{CodeOf(value * inverse)};
        }
      }
      std::memcpy(work.scales +
                      row / work.block_rows * work.scales_stride_bytes +
                      col / work.block_cols * 4,
                  &scale, sizeof(scale));
    }
  }
}

constexpr int64_t kMatrixCols = 4096;
constexpr Quantisation kQuantisations[] = {
    {"convert/quantise-128x128", 128, 128, &RunKernel},
    {"convert/quantise-1x128", 1, 128, &RunKernel},
    {"convert/quantise-per-row", 1, kMatrixCols, &RunKernel},
    {"convert/quantise-plain-loop", 128, 128, &RunPlainLoop}};

absl::Status BenchQuantisation(const BenchOptions& options,
                               const memory::Buffer& src,
                               const memory::Buffer& dst) {
  convert::BlockQuantisation work;
  work.src = src.data();
  work.src_stride_bytes = 2 * kMatrixCols;
  // Whole blocks, so that the plain loop needs no edges.
  work.rows = options.bytes / work.src_stride_bytes / 128 * 128;
  work.cols = kMatrixCols;
  work.dst = dst.data();
  work.dst_stride_bytes = kMatrixCols;
  // The scales lie behind the elements, which are half as long as the source.
  work.scales = dst.data() + work.rows * kMatrixCols;
  const int64_t src_bytes = work.rows * work.src_stride_bytes;
  for (const Quantisation& each : kQuantisations) {
    work.block_rows = each.block_rows;
    work.block_cols = each.block_cols;
    work.scales_stride_bytes = kMatrixCols / each.block_cols * 4;
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunPaired(
            each.name, "GB/s", options.runs,
            [&]() -> absl::StatusOr<double> {
              const auto start = std::chrono::steady_clock::now();
              each.run(work);
              return static_cast<double>(src_bytes) /
                     std::chrono::duration<double>(
                         std::chrono::steady_clock::now() - start)
                         .count() /
                     1e9;
            },
            [&]() -> absl::StatusOr<double> {
              return MemcpyRate(src_bytes, 1);
            }));
    Print(result, options);
  }
  return absl::OkStatus();
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
  return BenchQuantisation(options, *src, *dst);
}

}  // namespace weft::bench
