// Workloads, sources on the first GPU in processes of their own, the target on
// the last GPU here (one GPU: both on it):
//   gpu/refit-FROM-to-TO            the transfer            bound: one memcpy
//   gpu/refit-verified-FROM-to-TO   trigger to committed, digests compared
//   gpu/first-contact-...           before it; goal 100 ms; its parts are
//     /manifests   the catalog's answers
//     /plan        the plan and its proof
//     /connect     to the sources
//     /open        their allocations, on this GPU
//     /bind        the programs, made and uploaded
//   gpu/first-contact-of-process-...  of the first receiver of this process
//   gpu/contact-in-later-refits-...   of all refits after it: nothing
//   gpu/empty-refit                 a model of a few KiB, trigger to committed
//   gpu/ucx-refit-...               2 GB by operations of UCX (--transport)
// `--only`: "refit" for these, "posted" for UCX's, "empty" for the last one,
// "shadow" (bench_gpu_shadow.cc), "beside" (bench_gpu_beside.cc) and "programs"
// (bench/gpu), the last two where device code is compiled.
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "bench_fleet.h"
#include "bench_gpu_beside.h"
#include "bench_gpu_shadow.h"
#include "bench_gpu_target.h"
#include "console.h"
#include "weft/base/status.h"
#ifdef WEFT_WITH_CUDA
#include "bench_gpu.h"
#endif

namespace weft::bench {
namespace {

// What goes through the host takes a second a gigabyte.
constexpr int64_t kPostedBytes = int64_t{2'000'000'000};
constexpr double kContactGoal = 100;  // ms

// One line without a bound, of one measurement.
void PrintOnce(const BenchOptions& options, const std::string& name,
               double milliseconds, std::optional<double> goal = std::nullopt) {
  CaseResult result;
  result.name = name;
  result.value = milliseconds;
  result.unit = "ms";
  result.bound = goal;
  if (goal.has_value()) result.ratio = *goal / milliseconds;
  result.runs = 1;
  Print(result, options);
}

// Connects for the first time.
absl::Status ContactRows(const BenchOptions& options, const std::string& name,
                         GpuTarget& target) {
  target.phases().Take();
  const auto start = std::chrono::steady_clock::now();
  WEFT_RETURN_IF_ERROR(target.receiver().Prepare(Patience()));
  PrintOnce(options, name, SecondsSince(start) * 1e3, kContactGoal);
  const auto parts = ContactParts(target.phases().Take());
  for (const char* part : {"manifests", "plan", "connect", "open", "bind"}) {
    PrintOnce(options, absl::StrCat(name, "/", part), parts.at(part));
  }
  return absl::OkStatus();
}

void SayWhereTimeWent(const session::RefitReport& last,
                      const std::vector<session::RefitPhase>& phases) {
  apps::PrintLine(absl::StrCat(
      "  ", apps::HumanBytes(last.bytes), " in ",
      apps::HumanSeconds(last.seconds), ": transfer ",
      apps::HumanSeconds(last.transfer_seconds), " (copied after ",
      apps::HumanSeconds(last.execute.copied_seconds), ", digested after ",
      apps::HumanSeconds(last.execute.digested_seconds),
      "), comparing digests ", apps::HumanSeconds(last.verify_seconds),
      ", quantising ", apps::HumanSeconds(last.quantise_seconds), ", control ",
      apps::HumanSeconds(last.control_seconds)));
  for (const session::RefitPhase& phase : phases) {
    apps::PrintLine(absl::StrCat(
        "    ", phase.name, ": ",
        apps::HumanSeconds(
            std::chrono::duration<double>(phase.end - phase.begin).count())));
  }
}

// The rows of one receiver; `verify`: with digests, trigger to committed.
// `contact` names its first contact.
absl::Status RefitRows(const BenchOptions& options,
                       const std::string& transport,
                       const apps::DeviceChoice& device,
                       const BenchFleet& fleet, bool verify,
                       const std::string& contact) {
  const std::string kind =
      absl::StrCat(transport == "cuda" ? "" : absl::StrCat(transport, "-"),
                   verify ? "refit-verified" : "refit");
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<GpuTarget> target,
                        GpuTarget::Make(fleet, device,
                                        {.transport = transport,
                                         .verify = verify,
                                         .threads = options.threads}));
  WEFT_RETURN_IF_ERROR(
      ContactRows(options, GpuCaseName(contact, fleet.name()), *target));
  double later_contact = 0;
  session::RefitReport last;
  std::vector<session::RefitPhase> phases;
  const auto refit = [&]() -> absl::StatusOr<double> {
    WEFT_ASSIGN_OR_RETURN(last, target->Refit());
    phases = target->phases().Take();
    later_contact += ContactMilliseconds(ContactParts(phases));
    return static_cast<double>(last.bytes) /
           (verify ? last.seconds : last.transfer_seconds) / 1e9;
  };
  WEFT_RETURN_IF_ERROR(refit().status());
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<CopyBound> bound,
                        CopyBound::Make(device, 0, last.bytes));
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult result,
      RunPaired(GpuCaseName(kind, fleet.name()), "GB/s", options.runs, refit,
                [&] { return bound->Rate(); }));
  Print(result, options);
  PrintOnce(options, GpuCaseName("contact-in-later-refits", fleet.name()),
            later_contact);
  if (!options.json) SayWhereTimeWent(last, phases);
  return absl::OkStatus();
}

absl::Status RefitCases(const BenchOptions& options,
                        const apps::DeviceChoice& device) {
  // Of a process the first one also makes what the driver and the kernels need.
  std::string contact = "first-contact-of-process";
  for (const std::string job :
       {"qwen3:hf>vllm:tp=1", "qwen3:fsdp:shard=2>vllm:tp=1",
        "qwen3:megatron:tp=2>vllm:tp=1", "qwen3:megatron:tp=2>vllm:tp=4",
        "qwen3:hf:quant=fp8-block>vllm:tp=1,quant=fp8-block"}) {
    WEFT_ASSIGN_OR_RETURN(
        const std::unique_ptr<BenchFleet> fleet,
        BenchFleet::Start(job, options.bytes, "cuda", "cuda:0"));
    WEFT_RETURN_IF_ERROR(
        RefitRows(options, "cuda", device, *fleet, /*verify=*/false, contact));
    contact = "first-contact";
    WEFT_RETURN_IF_ERROR(
        RefitRows(options, "cuda", device, *fleet, /*verify=*/true, contact));
  }
  return absl::OkStatus();
}

// Over --transport, as where GPUs do not reach each other.
absl::Status PostedCases(const BenchOptions& options,
                         const apps::DeviceChoice& device) {
  const std::string contact = absl::StrCat(options.transport, "-first-contact");
  for (const std::string job :
       {"qwen3:hf>vllm:tp=1", "qwen3:megatron:tp=2>vllm:tp=4"}) {
    WEFT_ASSIGN_OR_RETURN(
        const std::unique_ptr<BenchFleet> fleet,
        BenchFleet::Start(job, std::min(options.bytes, kPostedBytes),
                          options.transport, "cuda:0"));
    for (const bool verify : {false, true}) {
      WEFT_RETURN_IF_ERROR(RefitRows(options, options.transport, device, *fleet,
                                     verify, contact));
    }
  }
  return absl::OkStatus();
}

absl::Status EmptyRefit(const BenchOptions& options,
                        const apps::DeviceChoice& device) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchFleet> fleet,
      BenchFleet::Start("contiguous", 64 << 10, "cuda", "cuda:0"));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<GpuTarget> target,
                        GpuTarget::Make(*fleet, device, {}));
  for (const bool whole : {false, true}) {
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunTimed(
            whole ? "gpu/empty-refit" : "gpu/empty-transfer", "us",
            options.runs * 20, whole ? std::nullopt : std::optional<double>(50),
            [&]() -> absl::StatusOr<double> {
              WEFT_ASSIGN_OR_RETURN(const session::RefitReport report,
                                    target->Refit());
              target->phases().Take();
              return 1e6 * (whole ? report.seconds : report.transfer_seconds);
            }));
    Print(result, options);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchGpu(const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(apps::DeviceChoice device, apps::ChooseDevice("cuda"));
  device.device = device.driver->num_devices() - 1;
  if (options.Wants("refit")) WEFT_RETURN_IF_ERROR(RefitCases(options, device));
  if (options.Wants("posted"))
    WEFT_RETURN_IF_ERROR(PostedCases(options, device));
  if (options.Wants("empty")) WEFT_RETURN_IF_ERROR(EmptyRefit(options, device));
  if (options.Wants("shadow"))
    WEFT_RETURN_IF_ERROR(BenchGpuShadow(options, device));
#ifdef WEFT_WITH_CUDA
  if (options.Wants("beside"))
    WEFT_RETURN_IF_ERROR(BenchGpuBeside(options, device));
  if (options.Wants("programs")) WEFT_RETURN_IF_ERROR(BenchGpuKernels(options));
#endif
  return absl::OkStatus();
}

}  // namespace weft::bench
