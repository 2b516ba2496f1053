// Workloads (`--bytes` of bf16 each; push: the source's device runs it, pull:
// the destination's):
//   gpu/link-rows-*        [n, w] of [n, 2w]: rows of w bytes, stepped
//   gpu/link-pieces-*      runs of w bytes (or 256 to 8192) in random order
//   gpu/link-transpose     [4096, n] as [n, 4096]
//   gpu/link-cast          f32 to bf16
//   gpu/link-fp8           bf16 to E4M3 in blocks of 128 x 128
//   gpu/hbm-*              the same within one device's memory
//   gpu/digest             of resident memory
//   gpu/digest-fused-*     copying with the digest, beside copying without
// Bounds: cudaMemcpyPeerAsync of the bytes that cross (link), a device copy
// counting reads and writes (hbm), a kernel that only reads (digest).
#include "bench_gpu.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device_probe.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/convert/cuda/program.h"

namespace weft::bench {
namespace {

using convert::CopyMode;
using convert::StridedCopy;
using convert::cuda::CopyWay;
using convert::cuda::LaunchOptions;
using convert::cuda::Program;
using convert::cuda::ProgramSpec;
using tensor::DType;

constexpr tensor::Conversion kUnchanged{DType::kBF16, DType::kBF16};

struct Ends {
  const std::byte* src;
  std::byte* dst;
};

ProgramSpec Rows(const Ends& ends, int64_t bytes, int64_t width) {
  ProgramSpec spec;
  StridedCopy copy;
  copy.src = ends.src;
  copy.dst = ends.dst;
  copy.modes = {{bytes / width, 2 * width, width}, {width / 2, 2, 2}};
  copy.conversion = kUnchanged;
  spec.copies.push_back({copy, {}});
  return spec;
}

// Runs of `least` to `most` bytes, multiples of 16, shuffled.
ProgramSpec Pieces(const Ends& ends, int64_t bytes, int64_t least,
                   int64_t most) {
  std::mt19937_64 random(7);
  std::uniform_int_distribution<int64_t> sixteenths(least / 16, most / 16);
  ProgramSpec spec;
  for (int64_t at = 0; at < bytes;) {
    const int64_t size = std::min(sixteenths(random) * 16, bytes - at);
    StridedCopy copy;
    copy.src = ends.src + at;
    copy.dst = ends.dst + at;
    copy.modes = {{size / 2, 2, 2}};
    copy.conversion = kUnchanged;
    spec.copies.push_back({copy, {}});
    at += size;
  }
  std::shuffle(spec.copies.begin(), spec.copies.end(), random);
  return spec;
}

ProgramSpec Transpose(const Ends& ends, int64_t bytes) {
  constexpr int64_t kRows = 4096;
  const int64_t cols = bytes / 2 / kRows;
  ProgramSpec spec;
  StridedCopy copy;
  copy.src = ends.src;
  copy.dst = ends.dst;
  copy.modes = {{kRows, cols * 2, 2}, {cols, 2, kRows * 2}};
  copy.conversion = kUnchanged;
  spec.copies.push_back({copy, {}});
  return spec;
}

// `bytes` of f32 at the source.
ProgramSpec Cast(const Ends& ends, int64_t bytes) {
  ProgramSpec spec;
  StridedCopy copy;
  copy.src = ends.src;
  copy.dst = ends.dst;
  copy.modes = {{bytes / 4, 4, 2}};
  copy.conversion = {DType::kF32, DType::kBF16};
  spec.copies.push_back({copy, {}});
  return spec;
}

constexpr int64_t kCols = 4096;

// `bytes` of bf16 at the source, rows of 4096; scales behind the elements.
ProgramSpec Quantise(const Ends& ends, int64_t bytes) {
  convert::cuda::Quantisation work;
  work.block.src = ends.src;
  work.block.src_stride_bytes = kCols * 2;
  work.block.rows = bytes / 2 / kCols;
  work.block.cols = kCols;
  work.block.dst = ends.dst;
  work.block.dst_stride_bytes = kCols;
  work.block.scales = ends.dst + bytes / 2;
  work.block.scales_stride_bytes = kCols / 128 * 4;
  ProgramSpec spec;
  spec.quantisations.push_back(work);
  return spec;
}

ProgramSpec Digest(const Ends& ends, int64_t bytes, int item_bytes = 2) {
  ProgramSpec spec;
  const int64_t rows = bytes / item_bytes / kCols;
  spec.num_values = (rows + 63) / 64 * (kCols / 64);
  spec.digests.push_back({ends.src,
                          item_bytes,
                          rows,
                          kCols,
                          kCols * item_bytes,
                          item_bytes,
                          {0, 0, 0, kCols / 64}});
  return spec;
}

ProgramSpec DigestedCopy(const Ends& ends, int64_t bytes) {
  ProgramSpec spec = Rows(ends, bytes, kCols * 2);
  const int64_t rows = bytes / 2 / kCols;
  spec.num_values = (rows + 63) / 64 * (kCols / 64);
  spec.copies[0].source_digest = {0, 0, 0, kCols / 64};
  spec.copies[0].copy.modes[0].src_stride_bytes = kCols * 2;
  return spec;
}

ProgramSpec DigestedQuantise(const Ends& ends, int64_t bytes) {
  ProgramSpec spec = Quantise(ends, bytes);
  const int64_t rows = bytes / 2 / kCols;
  const int64_t across = kCols / 64;
  spec.num_values = (rows + 63) / 64 * across;
  spec.quantisations[0].result_digest = {0, 0, 0, across};
  return spec;
}

using Rate = std::function<absl::StatusOr<double>()>;

class GpuBench {
 public:
  explicit GpuBench(const BenchOptions& options)
      : options_(options),
        bytes_(options.bytes / (kCols * 256) * (kCols * 256)),
        constants_(convert::DigestConstants::FromSeed(11)) {}

  absl::Status Run() {
    WEFT_RETURN_IF_ERROR(convert::cuda::DeviceAvailable());
    int devices = 0;
    WEFT_RETURN_IF_ERROR(
        CudaStatus(cudaGetDeviceCount(&devices), "cudaGetDeviceCount"));
    const bool two = devices >= 2;
    WEFT_ASSIGN_OR_RETURN(here_, DeviceProbe::Make(0, two ? 1 : -1));
    WEFT_ASSIGN_OR_RETURN(src_, here_->Allocate(2 * bytes_));
    WEFT_ASSIGN_OR_RETURN(local_, here_->Allocate(2 * bytes_));
    if (two) {
      WEFT_ASSIGN_OR_RETURN(there_, DeviceProbe::Make(1, 0));
      WEFT_ASSIGN_OR_RETURN(dst_, there_->Allocate(2 * bytes_));
      WEFT_RETURN_IF_ERROR(RunLink());
    } else {
      base::Log(base::LogLevel::kWarning,
                "one device only: rows between two are left out");
    }
    WEFT_RETURN_IF_ERROR(RunMemory());
    return RunDigest();
  }

 private:
  // GB/s of `crossing` bytes of a peer copy.
  Rate PeerCopy(int64_t crossing) {
    return [this, crossing]() -> absl::StatusOr<double> {
      WEFT_ASSIGN_OR_RETURN(const double seconds, here_->Seconds([&] {
        return CudaStatus(
            cudaMemcpyPeerAsync(dst_, 1, src_, 0, static_cast<size_t>(crossing),
                                here_->stream()),
            "cudaMemcpyPeerAsync");
      }));
      return static_cast<double>(crossing) / seconds / 1e9;
    };
  }

  // GB/s, read and written, of a copy within the device.
  Rate DeviceCopy() {
    return [this]() -> absl::StatusOr<double> {
      WEFT_ASSIGN_OR_RETURN(const double seconds, here_->Seconds([&] {
        return CudaStatus(
            cudaMemcpyAsync(local_, src_, static_cast<size_t>(bytes_),
                            cudaMemcpyDeviceToDevice, here_->stream()),
            "cudaMemcpyAsync");
      }));
      return 2 * static_cast<double>(bytes_) / seconds / 1e9;
    };
  }

  Rate Read() {
    return [this]() -> absl::StatusOr<double> {
      WEFT_ASSIGN_OR_RETURN(const double seconds, here_->Seconds([&] {
        return CudaStatus(LaunchRead(src_, bytes_, 132, here_->stream()),
                          "reading");
      }));
      return static_cast<double>(bytes_) / seconds / 1e9;
    };
  }

  absl::Status Case(const std::string& name, DeviceProbe& on,
                    const ProgramSpec& spec, CopyWay way,
                    const LaunchOptions& launch, int64_t counted,
                    const Rate& bound) {
    WEFT_ASSIGN_OR_RETURN(
        const std::unique_ptr<Program> program,
        convert::cuda::BuildProgram(on.device(), spec, {way}));
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunPaired(
            name, "GB/s", options_.runs,
            [&]() -> absl::StatusOr<double> {
              WEFT_ASSIGN_OR_RETURN(const double seconds,
                                    on.Seconds(*program, launch));
              return static_cast<double>(counted) / seconds / 1e9;
            },
            bound));
    Print(result, options_);
    return absl::OkStatus();
  }

  absl::Status LinkCases(const std::string& name, const ProgramSpec& spec,
                         CopyWay way, const std::vector<int>& sms,
                         int64_t crossing) {
    for (const bool pull : {false, true}) {
      for (const int count : sms) {
        WEFT_RETURN_IF_ERROR(
            Case(absl::StrCat("gpu/link-", name, pull ? "-pull" : "-push",
                              count > 0 ? absl::StrCat("-", count, "sm") : ""),
                 pull ? *there_ : *here_, spec, way, {count, nullptr, false},
                 crossing, PeerCopy(crossing)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status RunLink() {
    const Ends ends{src_, dst_};
    for (const int64_t width : {64, 128, 256, 8192}) {
      const ProgramSpec rows = Rows(ends, bytes_, width);
      const std::string name = absl::StrCat("rows-", width, "B");
      WEFT_RETURN_IF_ERROR(LinkCases(absl::StrCat(name, "-engine"), rows,
                                     CopyWay::kEngines, {0}, bytes_));
      if (width < 256) continue;
      WEFT_RETURN_IF_ERROR(LinkCases(absl::StrCat(name, "-kernel"), rows,
                                     CopyWay::kKernel, {0, 8, 16, 32}, bytes_));
    }
    WEFT_RETURN_IF_ERROR(LinkCases("pieces-256B",
                                   Pieces(ends, bytes_, 256, 256),
                                   CopyWay::kKernel, {0, 16}, bytes_));
    WEFT_RETURN_IF_ERROR(LinkCases("pieces-mixed",
                                   Pieces(ends, bytes_, 256, 8192),
                                   CopyWay::kKernel, {0, 16}, bytes_));
    WEFT_RETURN_IF_ERROR(LinkCases("transpose", Transpose(ends, bytes_),
                                   CopyWay::kKernel, {0, 16, 32}, bytes_));
    // Pulled, the f32 cross; pushed, the bf16.
    WEFT_RETURN_IF_ERROR(Case("gpu/link-cast-push", *here_, Cast(ends, bytes_),
                              CopyWay::kKernel, {0, nullptr, false}, bytes_ / 2,
                              PeerCopy(bytes_ / 2)));
    WEFT_RETURN_IF_ERROR(Case("gpu/link-cast-pull", *there_, Cast(ends, bytes_),
                              CopyWay::kKernel, {0, nullptr, false}, bytes_,
                              PeerCopy(bytes_)));
    const int64_t fp8 = bytes_ / 2 + bytes_ / 2 / 128 / 128 * 4;
    WEFT_RETURN_IF_ERROR(Case("gpu/link-fp8-push", *here_,
                              Quantise(ends, bytes_), CopyWay::kKernel,
                              {0, nullptr, false}, fp8, PeerCopy(fp8)));
    for (const int sms : {16, 32, 64}) {
      WEFT_RETURN_IF_ERROR(Case(absl::StrCat("gpu/link-fp8-push-", sms, "sm"),
                                *here_, Quantise(ends, bytes_),
                                CopyWay::kKernel, {sms, nullptr, false}, fp8,
                                PeerCopy(fp8)));
    }
    WEFT_RETURN_IF_ERROR(Case("gpu/link-fp8-pull", *there_,
                              Quantise(ends, bytes_), CopyWay::kKernel,
                              {0, nullptr, false}, bytes_, PeerCopy(bytes_)));
    WEFT_RETURN_IF_ERROR(Case("gpu/link-fp8-push-digested", *here_,
                              DigestedQuantise(ends, bytes_), CopyWay::kKernel,
                              {0, &constants_, false}, fp8, PeerCopy(fp8)));
    WEFT_RETURN_IF_ERROR(Case(
        "gpu/digest-fused-push", *here_, DigestedCopy(ends, bytes_),
        CopyWay::kKernel, {0, &constants_, false}, bytes_, PeerCopy(bytes_)));
    return Case("gpu/digest-fused-pull", *there_, DigestedCopy(ends, bytes_),
                CopyWay::kKernel, {0, &constants_, false}, bytes_,
                PeerCopy(bytes_));
  }

  absl::Status RunMemory() {
    const Ends ends{src_, local_};
    const LaunchOptions all{0, nullptr, false};
    WEFT_RETURN_IF_ERROR(Case("gpu/hbm-rows-256B", *here_,
                              Rows(ends, bytes_, 256), CopyWay::kKernel, all,
                              2 * bytes_, DeviceCopy()));
    WEFT_RETURN_IF_ERROR(Case("gpu/hbm-rows-8192B", *here_,
                              Rows(ends, bytes_, 8192), CopyWay::kKernel, all,
                              2 * bytes_, DeviceCopy()));
    WEFT_RETURN_IF_ERROR(Case("gpu/hbm-pieces-mixed", *here_,
                              Pieces(ends, bytes_, 256, 8192), CopyWay::kKernel,
                              all, 2 * bytes_, DeviceCopy()));
    WEFT_RETURN_IF_ERROR(Case("gpu/hbm-transpose", *here_,
                              Transpose(ends, bytes_), CopyWay::kKernel, all,
                              2 * bytes_, DeviceCopy()));
    WEFT_RETURN_IF_ERROR(Case("gpu/hbm-cast", *here_, Cast(ends, bytes_),
                              CopyWay::kKernel, all, bytes_ + bytes_ / 2,
                              DeviceCopy()));
    return Case("gpu/hbm-fp8", *here_, Quantise(ends, bytes_), CopyWay::kKernel,
                all, bytes_ + bytes_ / 2, DeviceCopy());
  }

  absl::Status RunDigest() {
    const Ends ends{src_, local_};
    for (const int item_bytes : {1, 4}) {
      WEFT_RETURN_IF_ERROR(Case(absl::StrCat("gpu/digest-", item_bytes, "B"),
                                *here_, Digest(ends, bytes_, item_bytes),
                                CopyWay::kKernel, {0, &constants_, false},
                                bytes_, Read()));
    }
    for (const int sms : {0, 16, 32}) {
      WEFT_RETURN_IF_ERROR(
          Case(absl::StrCat("gpu/digest",
                            sms > 0 ? absl::StrCat("-", sms, "sm") : ""),
               *here_, Digest(ends, bytes_), CopyWay::kKernel,
               {sms, &constants_, false}, bytes_, Read()));
    }
    return absl::OkStatus();
  }

  const BenchOptions options_;
  const int64_t bytes_;
  const convert::DigestConstants constants_;
  std::unique_ptr<DeviceProbe> here_;
  std::unique_ptr<DeviceProbe> there_;
  std::byte* src_ = nullptr;    // on device 0
  std::byte* local_ = nullptr;  // on device 0
  std::byte* dst_ = nullptr;    // on device 1
};

}  // namespace

absl::Status BenchGpuKernels(const BenchOptions& options) {
  return GpuBench(options).Run();
}

}  // namespace weft::bench
