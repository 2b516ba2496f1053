// Workloads (catalog and sources in processes of their own, target here):
//   refit/mapped-contiguous   shm, one tensor           bound: memcpy
//   refit/mapped-strided      shm, megatron:tp=2 -> vllm:tp=4
//   refit/mapped-256B-runs    shm, 256-byte pieces
//   refit/mapped-strided-verified   the same with digests, whole refit
//   refit/ucx-contiguous      posted reads              bound: raw 1 MiB Gets
//   refit/ucx-strided
//   refit/ucx-256B-{short-gets,over-read,gather,auto}
//   refit/nixl-...            the posted ones over NIXL, with --transport nixl
// The memcpy bound uses as many threads as the refit. UCX takes the transport
// that UCX_TLS allows (cma or posix on one host; UCX_TLS=tcp for tcp).
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "bench_fleet.h"
#include "bench_raw.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

using execute::PostedWay;

// GB/s of the transfer phase of one warm refit; of the whole call if `whole`.
absl::StatusOr<double> RefitRate(BenchReceiver& target, bool whole) {
  WEFT_ASSIGN_OR_RETURN(
      const session::RefitReport report,
      target.receiver->Refit(nullptr, /*newer=*/false, Patience()));
  return static_cast<double>(report.bytes) /
         (whole ? report.seconds : report.transfer_seconds) / 1e9;
}

absl::Status MappedCase(const BenchOptions& options, const std::string& name,
                        const std::string& job, bool verified) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BenchFleet> fleet,
                        BenchFleet::Start(job, options.bytes, "shm"));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BenchReceiver> target,
                        MakeBenchReceiver(*fleet, "shm", options.threads,
                                          PostedWay::kAuto, verified));
  WEFT_ASSIGN_OR_RETURN(const CaseResult result,
                        RunPaired(
                            name, "GB/s", options.runs,
                            [&] { return RefitRate(*target, verified); },
                            [&]() -> absl::StatusOr<double> {
                              return MemcpyRate(options.bytes, options.threads);
                            }));
  Print(result, options);
  return absl::OkStatus();
}

// "ucx", or "ucx[tcp]" where UCX is told which wire to take.
std::string PostedLabel(const BenchOptions& options) {
  const char* tls = std::getenv("UCX_TLS");
  return tls == nullptr ? options.transport
                        : absl::StrCat(options.transport, "[", tls, "]");
}

absl::Status PostedCase(const BenchOptions& options, const std::string& name,
                        const std::string& job, int64_t bytes, PostedWay way) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BenchFleet> fleet,
                        BenchFleet::Start(job, bytes, options.transport));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchReceiver> target,
      MakeBenchReceiver(*fleet, options.transport, options.threads, way,
                        /*verify=*/false));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<RawReader> raw,
                        RawReader::Open(*fleet, options.transport));
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult result,
      RunPaired(
          absl::StrCat("refit/", PostedLabel(options), "-", name), "GB/s",
          options.runs, [&] { return RefitRate(*target, /*whole=*/false); },
          [&] { return raw->ReadRate(); }));
  Print(result, options);
  return absl::OkStatus();
}

absl::Status MappedCases(const BenchOptions& options) {
  WEFT_RETURN_IF_ERROR(MappedCase(options, "refit/mapped-contiguous",
                                  "contiguous", /*verified=*/false));
  WEFT_RETURN_IF_ERROR(MappedCase(options, "refit/mapped-strided", "strided",
                                  /*verified=*/false));
  WEFT_RETURN_IF_ERROR(MappedCase(options, "refit/mapped-256B-runs",
                                  "runs-256B", /*verified=*/false));
  return MappedCase(options, "refit/mapped-strided-verified", "strided",
                    /*verified=*/true);
}

}  // namespace

absl::Status BenchRefit(const BenchOptions& options) {
  if (options.transport == "ucx") {
    WEFT_RETURN_IF_ERROR(MappedCases(options));
  }
  WEFT_RETURN_IF_ERROR(PostedCase(options, "contiguous", "contiguous",
                                  options.bytes, PostedWay::kAuto));
  WEFT_RETURN_IF_ERROR(PostedCase(options, "strided", "strided", options.bytes,
                                  PostedWay::kAuto));
  const int64_t short_bytes = options.bytes / 4;
  const struct {
    const char* name;
    PostedWay way;
  } ways[] = {{"256B-short-gets", PostedWay::kShortGets},
              {"256B-over-read", PostedWay::kOverRead},
              {"256B-gather", PostedWay::kGather},
              {"256B-auto", PostedWay::kAuto}};
  for (const auto& [name, way] : ways) {
    WEFT_RETURN_IF_ERROR(
        PostedCase(options, name, "runs-256B", short_bytes, way));
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
