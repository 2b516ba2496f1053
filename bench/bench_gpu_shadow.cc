// Workloads, whole models of `--bytes` from GPU 0 to the last, received into a
// second set of buffers:
//   gpu/shadow-copy       keep_previous off: the second set is copied over the
//                         live one
//   gpu/shadow-exchange   contents change places, so that a rollback is
//   possible
// GB/s of weights that became live in the pause, and "-pause", the same in ms.
// Bounds: a copy within that GPU's memory, in turn with the refits; exchanging
// reads and writes both sets, so at best it is two copies. It is three as it is
// done, through a small buffer: 0.67 of the bound is what that can reach.
#include "bench_gpu_shadow.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "bench_gpu_target.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

constexpr char kShadowJob[] = "qwen3:hf>vllm:tp=1";
// Full rate is reached far below, and both ends have to fit beside two sets.
constexpr int64_t kMostBoundBytes = int64_t{4} << 30;

absl::Status ShadowCase(const BenchOptions& options,
                        const apps::DeviceChoice& device,
                        const BenchFleet& fleet, bool keep_previous) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<GpuTarget> target,
                        GpuTarget::Make(fleet, device,
                                        {.threads = options.threads,
                                         .mode = session::ReceiveMode::kShadow,
                                         .keep_previous = keep_previous}));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<CopyBound> copy,
      CopyBound::Make(device, device.device,
                      std::min(options.bytes, kMostBoundBytes)));
  int64_t bytes = 0;
  const auto rate = [&]() -> absl::StatusOr<double> {
    WEFT_ASSIGN_OR_RETURN(const session::RefitReport report, target->Refit());
    bytes = report.bytes_copied;
    return static_cast<double>(bytes) / report.pause_seconds / 1e9;
  };
  const auto bound = [&]() -> absl::StatusOr<double> {
    WEFT_ASSIGN_OR_RETURN(const double copied, copy->Rate());
    return keep_previous ? copied / 2 : copied;
  };
  const std::string name = GpuCaseName(
      keep_previous ? "shadow-exchange" : "shadow-copy", fleet.name());
  WEFT_ASSIGN_OR_RETURN(CaseResult result,
                        RunPaired(name, "GB/s", options.runs, rate, bound));
  Print(result, options);
  result.name = absl::StrCat(name, "-pause");
  result.unit = "ms";
  result.value = static_cast<double>(bytes) / result.value / 1e6;
  result.bound = static_cast<double>(bytes) / *result.bound / 1e6;
  Print(result, options);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchGpuShadow(const BenchOptions& options,
                            const apps::DeviceChoice& device) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchFleet> fleet,
      BenchFleet::Start(kShadowJob, options.bytes, "cuda", "cuda:0"));
  WEFT_RETURN_IF_ERROR(ShadowCase(options, device, *fleet, false));
  return ShadowCase(options, device, *fleet, true);
}

}  // namespace weft::bench
