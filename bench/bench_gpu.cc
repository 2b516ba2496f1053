// Workloads, sources on the first GPU in processes of their own, the target on
// the last GPU here (one GPU: both on it):
//   gpu/refit-FROM-to-TO            the transfer            bound: one memcpy
//   gpu/refit-verified-FROM-to-TO   trigger to committed, digests compared
//   gpu/first-contact               prepare: open, map, plan, upload (ms)
//   gpu/empty-refit                 a model of a few KiB, trigger to committed
//   gpu/ucx-refit-...               2 GB by operations of UCX (--transport)
// and, where device code is compiled, the rows of its programs (bench/gpu).
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "bench_case.h"
#include "bench_fleet.h"
#include "console.h"
#include "endpoints.h"
#include "rank_store.h"
#include "weft/base/status.h"
#ifdef WEFT_WITH_CUDA
#include "bench_gpu.h"
#endif

namespace weft::bench {
namespace {

// What goes through the host takes a second a gigabyte.
constexpr int64_t kPostedBytes = int64_t{2'000'000'000};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

// A receiver of the fleet's target on a GPU.
struct GpuReceiver {
  std::unique_ptr<apps::RankStore> store;
  std::vector<session::RefitPhase> phases;  // of the last refit
  std::unique_ptr<session::Receiver> receiver;
};

absl::StatusOr<std::unique_ptr<GpuReceiver>> MakeGpuReceiver(
    const BenchFleet& fleet, const std::string& transport,
    const apps::DeviceChoice& device, bool verify, int threads) {
  auto made = std::make_unique<GpuReceiver>();
  session::ReceiverOptions options;
  options.model = ModelNameOf(fleet.name());
  options.placement = fleet.job().target;
  WEFT_ASSIGN_OR_RETURN(made->store,
                        apps::RankStore::Allocate(options.placement, device));
  options.memory = made->store->memory();
  WEFT_ASSIGN_OR_RETURN(options.catalog, apps::ConnectCatalog(fleet.address()));
  WEFT_ASSIGN_OR_RETURN(options.transports,
                        apps::MakeTransports(transport, device));
  options.execute.device = device.Options();
  options.execute.num_threads = threads;
  options.verify = verify;
  options.measure_bound = false;
  options.on_phase = [phases = &made->phases](const session::RefitPhase& each) {
    phases->push_back(each);
  };
  WEFT_ASSIGN_OR_RETURN(made->receiver, session::Receiver::Create(
                                            std::move(options), Patience()));
  return made;
}

// One copy by the copy engines of memory of GPU `from`.
class CopyBound {
 public:
  static absl::StatusOr<std::unique_ptr<CopyBound>> Make(
      const apps::DeviceChoice& to, int from, int64_t bytes) {
    auto made = std::make_unique<CopyBound>();
    WEFT_ASSIGN_OR_RETURN(
        made->src, memory::DeviceBuffer::Allocate(*to.driver, from, bytes));
    WEFT_ASSIGN_OR_RETURN(made->dst, memory::DeviceBuffer::Allocate(
                                         *to.driver, to.device, bytes));
    WEFT_RETURN_IF_ERROR(to.driver->EnablePeer(to.device, from));
    WEFT_ASSIGN_OR_RETURN(made->queue, to.driver->MakeQueue(to.device));
    return made;
  }
  absl::StatusOr<double> Rate() {
    const auto start = std::chrono::steady_clock::now();
    WEFT_RETURN_IF_ERROR(
        queue->Copy(dst->data(), src->data(), dst->size_bytes()));
    WEFT_RETURN_IF_ERROR(queue->Wait(Patience(), "measuring a copy"));
    return static_cast<double>(dst->size_bytes()) / SecondsSince(start) / 1e9;
  }
  std::unique_ptr<memory::DeviceBuffer> src;
  std::unique_ptr<memory::DeviceBuffer> dst;
  std::unique_ptr<memory::DeviceQueue> queue;
};

std::string CaseName(const std::string& kind, const std::string& job) {
  return absl::StrCat(
      "gpu/", kind, "-",
      absl::StrReplaceAll(job.substr(job.find(':') + 1), {{">", "-to-"}}));
}

// The rows of one receiver; `verify`: with digests, trigger to committed.
absl::Status RefitRows(const BenchOptions& options,
                       const std::string& transport,
                       const apps::DeviceChoice& device,
                       const BenchFleet& fleet, bool verify) {
  const std::string kind =
      absl::StrCat(transport == "cuda" ? "" : absl::StrCat(transport, "-"),
                   verify ? "refit-verified" : "refit");
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<GpuReceiver> target,
      MakeGpuReceiver(fleet, transport, device, verify, options.threads));
  const auto start = std::chrono::steady_clock::now();
  WEFT_RETURN_IF_ERROR(target->receiver->Prepare(Patience()));
  const double contact = SecondsSince(start);
  session::RefitReport last;
  const auto refit = [&]() -> absl::StatusOr<double> {
    target->phases.clear();
    WEFT_ASSIGN_OR_RETURN(
        last, target->receiver->Refit(nullptr, /*newer=*/false, Patience()));
    return static_cast<double>(last.bytes) /
           (verify ? last.seconds : last.transfer_seconds) / 1e9;
  };
  WEFT_RETURN_IF_ERROR(refit().status());
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<CopyBound> bound,
                        CopyBound::Make(device, 0, last.bytes));
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult result,
      RunPaired(CaseName(kind, fleet.name()), "GB/s", options.runs, refit,
                [&] { return bound->Rate(); }));
  Print(result, options);
  CaseResult first;
  first.name = CaseName("first-contact", fleet.name());
  first.value = contact * 1e3;
  first.unit = "ms";
  first.bound = 100;
  first.ratio = 100 / first.value;
  first.runs = 1;
  Print(first, options);
  if (!options.json) {
    apps::PrintLine(absl::StrCat(
        "  ", apps::HumanBytes(last.bytes), " in ",
        apps::HumanSeconds(last.seconds), ": transfer ",
        apps::HumanSeconds(last.transfer_seconds), " (copied after ",
        apps::HumanSeconds(last.execute.copied_seconds), ", digested after ",
        apps::HumanSeconds(last.execute.digested_seconds),
        "), comparing digests ", apps::HumanSeconds(last.verify_seconds),
        ", quantising ", apps::HumanSeconds(last.quantise_seconds),
        ", control ", apps::HumanSeconds(last.control_seconds)));
    for (const session::RefitPhase& phase : target->phases) {
      apps::PrintLine(absl::StrCat(
          "    ", phase.name, ": ",
          apps::HumanSeconds(
              std::chrono::duration<double>(phase.end - phase.begin).count())));
    }
  }
  return absl::OkStatus();
}

absl::Status RefitCase(const BenchOptions& options,
                       const apps::DeviceChoice& device, const std::string& job,
                       const std::string& transport, int64_t bytes) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<BenchFleet> fleet,
                        BenchFleet::Start(job, bytes, transport, "cuda:0"));
  WEFT_RETURN_IF_ERROR(
      RefitRows(options, transport, device, *fleet, /*verify=*/false));
  return RefitRows(options, transport, device, *fleet, /*verify=*/true);
}

absl::Status EmptyRefit(const BenchOptions& options,
                        const apps::DeviceChoice& device) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchFleet> fleet,
      BenchFleet::Start("contiguous", 64 << 10, "cuda", "cuda:0"));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<GpuReceiver> target,
                        MakeGpuReceiver(*fleet, "cuda", device, true, 1));
  for (const bool whole : {false, true}) {
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult result,
        RunTimed(
            whole ? "gpu/empty-refit" : "gpu/empty-transfer", "us",
            options.runs * 20, whole ? std::nullopt : std::optional<double>(50),
            [&]() -> absl::StatusOr<double> {
              WEFT_ASSIGN_OR_RETURN(
                  const session::RefitReport report,
                  target->receiver->Refit(nullptr, false, Patience()));
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
  for (const std::string job :
       {"qwen3:hf>vllm:tp=1", "qwen3:fsdp:shard=2>vllm:tp=1",
        "qwen3:megatron:tp=2>vllm:tp=1", "qwen3:megatron:tp=2>vllm:tp=4",
        "qwen3:hf:quant=fp8-block>vllm:tp=1,quant=fp8-block"}) {
    WEFT_RETURN_IF_ERROR(
        RefitCase(options, device, job, "cuda", options.bytes));
  }
  for (const std::string job :
       {"qwen3:hf>vllm:tp=1", "qwen3:megatron:tp=2>vllm:tp=4"}) {
    WEFT_RETURN_IF_ERROR(RefitCase(options, device, job, options.transport,
                                   std::min(options.bytes, kPostedBytes)));
  }
  WEFT_RETURN_IF_ERROR(EmptyRefit(options, device));
#ifdef WEFT_WITH_CUDA
  return BenchGpuKernels(options);
#else
  return absl::OkStatus();
#endif
}

}  // namespace weft::bench
