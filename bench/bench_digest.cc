// Workloads: digest/bf16-band  one core, 1 GiB of bf16 rows of 4096 elements
//            digest/f32-band   the same bytes as f32
// Bound: one core reads the same bytes and sums 64-bit words.
#include <chrono>
#include <memory>
#include <vector>

#include "bench_case.h"
#include "weft/base/status.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/memory/buffer.h"
#include "weft/tensor/tile_grid.h"

namespace weft::bench {
namespace {

double DigestRate(const std::byte* data, int64_t bytes, int item_bytes) {
  constexpr int64_t kCols = 4096;
  const int64_t row_bytes = kCols * item_bytes;
  const int64_t rows = bytes / row_bytes;
  const convert::DigestConstants constants =
      convert::DigestConstants::FromSeed(7);
  std::vector<convert::DigestValue> values(kCols / tensor::kTileCols);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t row = 0; row + tensor::kTileRows <= rows;
       row += tensor::kTileRows) {
    convert::CpuKernels().DigestBand(constants, data + row * row_bytes,
                                     row_bytes,
                                     static_cast<int>(tensor::kTileRows), kCols,
                                     item_bytes, 0, 0, absl::MakeSpan(values));
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return static_cast<double>(bytes) / seconds / 1e9;
}

}  // namespace

absl::Status BenchDigest(const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::Buffer> data,
      memory::Buffer::Allocate(memory::MemoryKind::kShared, options.bytes));
  for (int64_t i = 0; i < options.bytes; ++i) {
    data->data()[i] = static_cast<std::byte>(i * 131 >> 3);
  }
  for (const int item_bytes : {2, 4}) {
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunPaired(
            item_bytes == 2 ? "digest/bf16-band" : "digest/f32-band", "GB/s",
            options.runs,
            [&]() -> absl::StatusOr<double> {
              return DigestRate(data->data(), options.bytes, item_bytes);
            },
            [&]() -> absl::StatusOr<double> {
              return ReadRate(options.bytes);
            }));
    Print(result, options);
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
