// Workloads: refits with digests back to back, of `--bytes` in layouts that
// differ, into a GPU that computes meanwhile, in this process as an engine does
// (two processes would take turns on the GPU). N: multiprocessors that the
// refits' kernels may take, "all", 32, 16 or 8; LOAD: gpu_load.h.
//   gpu/beside-LOAD-N/load    the load's rate beside refits   bound: alone
//   gpu/beside-LOAD-N/refit   the refits' rate beside the load   bound: alone
// Alone and together are measured in turn.
#include "bench_gpu_beside.h"

#ifdef WEFT_WITH_CUDA
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench_gpu_target.h"
#include "gpu_load.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

constexpr char kBesideJob[] = "qwen3:megatron:tp=2>vllm:tp=1";
// One measurement; a refit of 16 GB takes a tenth of it.
constexpr std::chrono::milliseconds kWindow(500);
constexpr int kMostRuns = 3;  // four times a second and a half each
constexpr int kSms[] = {0, 32, 16, 8};

// A load on a thread of its own, until it is told to stop.
class RunningLoad {
 public:
  // Returns when the GPU is busy.
  explicit RunningLoad(GpuLoad& load) : load_(load) {
    thread_ = std::thread([this] {
      status_ = load_.Launch().status();
      busy_.set_value();
      if (status_.ok()) status_ = Repeat();
    });
    busy_.get_future().wait();
  }
  ~RunningLoad() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  // What it came to by the second.
  absl::StatusOr<double> Stop() {
    stop_ = true;
    thread_.join();
    WEFT_RETURN_IF_ERROR(status_);
    return static_cast<double>(launches_) * load_.work() / seconds_;
  }

 private:
  absl::Status Repeat() {
    WEFT_RETURN_IF_ERROR(load_.Wait());
    const auto start = std::chrono::steady_clock::now();
    do {
      WEFT_ASSIGN_OR_RETURN(const int launches, load_.Launch());
      WEFT_RETURN_IF_ERROR(load_.Wait());
      launches_ += launches;
    } while (!stop_);
    seconds_ = SecondsSince(start);
    return absl::OkStatus();
  }

  GpuLoad& load_;
  std::promise<void> busy_;
  std::atomic<bool> stop_{false};
  // Of the thread until it has ended.
  absl::Status status_;
  int64_t launches_ = 0;
  double seconds_ = 0;
  std::thread thread_;
};

// GB/s of refits back to back, control included.
absl::StatusOr<double> RefitsRate(GpuTarget& target) {
  const auto start = std::chrono::steady_clock::now();
  int64_t bytes = 0;
  while (std::chrono::steady_clock::now() - start < kWindow) {
    WEFT_ASSIGN_OR_RETURN(const session::RefitReport report, target.Refit());
    bytes += report.bytes;
  }
  return static_cast<double>(bytes) / SecondsSince(start) / 1e9;
}

absl::StatusOr<double> LoadRateAlone(GpuLoad& load) {
  RunningLoad running(load);
  std::this_thread::sleep_for(kWindow);
  return running.Stop();
}

absl::Status BesideCase(const BenchOptions& options, GpuTarget& target,
                        GpuLoad& load, int num_sms) {
  std::vector<double> loads, loads_alone, refits, refits_alone;
  const int runs = std::min(options.runs, kMostRuns);
  for (int run = -1; run < runs; ++run) {
    WEFT_ASSIGN_OR_RETURN(const double load_alone, LoadRateAlone(load));
    WEFT_ASSIGN_OR_RETURN(const double refit_alone, RefitsRate(target));
    RunningLoad running(load);
    WEFT_ASSIGN_OR_RETURN(const double refit, RefitsRate(target));
    WEFT_ASSIGN_OR_RETURN(const double beside, running.Stop());
    if (run < 0) continue;
    loads_alone.push_back(load_alone);
    refits_alone.push_back(refit_alone);
    loads.push_back(beside);
    refits.push_back(refit);
  }
  const std::string name = absl::StrCat(
      "gpu/beside-", load.name(), "-",
      num_sms == 0 ? std::string("all") : absl::StrCat(num_sms, "sm"));
  Print(PairedResult(name + "/load", load.unit(), loads, loads_alone), options);
  Print(PairedResult(name + "/refit", "GB/s", refits, refits_alone), options);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchGpuBeside(const BenchOptions& options,
                            const apps::DeviceChoice& device) {
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchFleet> fleet,
      BenchFleet::Start(kBesideJob, options.bytes, "cuda", "cuda:0"));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<GpuLoad> gemm,
                        GpuLoad::MakeGemm(device.device));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<GpuLoad> read,
                        GpuLoad::MakeRead(device.device));
  for (const int num_sms : kSms) {
    WEFT_ASSIGN_OR_RETURN(
        const std::unique_ptr<GpuTarget> target,
        GpuTarget::Make(*fleet, device,
                        {.threads = options.threads, .num_sms = num_sms}));
    for (GpuLoad* const load : {gemm.get(), read.get()}) {
      WEFT_RETURN_IF_ERROR(BesideCase(options, *target, *load, num_sms));
    }
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
#endif
