// Workloads: a catalog process of its own, 5,000 workers attached to it over
// 50 connections, 1,000 watches among them; one publisher publishes step after
// step.
//   catalog/notify-p50, -p99    from the call of publish to the watch that is
//                               told, over all watches and steps
//   catalog/notify-all-p50, -p99  to the last of the 1,000, over all steps
//   catalog/publish-cpu         CPU of the catalog for one step, all told
//   catalog/workers-memory      its resident memory then
#include "bench_catalog_scale.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "child_process.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/manifest/placement.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWorkers = 5'000;
constexpr int kWatches = 1'000;
constexpr int kConnections = 50;
constexpr int kSteps = 200;
constexpr char kModel[] = "scale";

// Of a process, from /proc.
double CpuSeconds(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string word;
  double ticks = 0;
  for (int field = 1; field <= 15 && file >> word; ++field) {
    if (field >= 14) ticks += std::stod(word);
  }
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ResidentMegabytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  double pages = 0;
  file >> pages >> pages;
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

// When each watch was told of the step that is awaited.
class Notices {
 public:
  void Begin(uint64_t step) {
    const std::lock_guard lock(mutex_);
    step_ = step;
    times_.clear();
  }
  void Hear(const catalog::VersionRecord& record) {
    const auto now = Clock::now();
    if (record.state != catalog::VersionState::kReady) return;
    const std::lock_guard lock(mutex_);
    if (record.version.step != step_) return;
    times_.push_back(now);
    if (times_.size() == kWatches) all_.notify_one();
  }
  // Seconds after `start` of each, ascending.
  absl::StatusOr<std::vector<double>> Await(Clock::time_point start) {
    std::unique_lock lock(mutex_);
    if (!all_.wait_for(lock, Patience().Remaining(),
                       [this] { return times_.size() >= kWatches; })) {
      return absl::DeadlineExceededError(
          absl::StrCat(times_.size(), " of ", kWatches, " watches were told"));
    }
    std::vector<double> seconds;
    for (const auto time : times_) {
      seconds.push_back(std::chrono::duration<double>(time - start).count());
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds;
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  uint64_t step_ = 0;
  std::vector<Clock::time_point> times_;
};

// One connection, its workers and its watches.
struct Host {
  std::unique_ptr<catalog::CatalogStore> client;
  std::vector<std::unique_ptr<catalog::Attachment>> attachments;
  std::vector<std::unique_ptr<catalog::VersionWatch>> watches;
  std::string publisher_id;  // of the first host
};

absl::StatusOr<std::string> Join(Host& host, catalog::WorkerInfo info) {
  WEFT_ASSIGN_OR_RETURN(const catalog::Registration worker,
                        host.client->Register(info, "", Patience()));
  WEFT_ASSIGN_OR_RETURN(auto attachment,
                        host.client->Attach(worker.worker_id, Patience()));
  host.attachments.push_back(std::move(attachment));
  return worker.worker_id;
}

absl::Status FillHost(const std::string& address, int number, Notices& notices,
                      Host& host) {
  WEFT_ASSIGN_OR_RETURN(host.client, catalog::MakeGrpcClient(address));
  catalog::WorkerInfo info;
  info.model = kModel;
  info.layout_spec = "scale";
  info.host_id = absl::StrCat("host", number);
  info.process_id = getpid();
  info.num_ranks = kWorkers;
  info.role = catalog::Role::kReceiver;
  const int here = kWorkers / kConnections - (number == 0 ? 1 : 0);
  for (int i = 0; i < here; ++i) {
    info.rank = number * here + i;
    WEFT_RETURN_IF_ERROR(Join(host, info).status());
  }
  if (number == 0) {
    const std::string placement = "placement";
    info.role = catalog::Role::kPublisher;
    info.rank = 0;
    info.num_ranks = 1;
    info.run_id = "run";
    info.placement_digest_hex = manifest::DigestOf(placement).ToHex();
    WEFT_RETURN_IF_ERROR(host.client->PutPlacement(info.placement_digest_hex,
                                                   placement, Patience()));
    WEFT_ASSIGN_OR_RETURN(host.publisher_id, Join(host, info));
  }
  for (int i = 0; i < kWatches / kConnections; ++i) {
    WEFT_ASSIGN_OR_RETURN(auto watch,
                          host.client->WatchVersions(kModel, Patience()));
    catalog::VersionWatch* raw = watch.get();
    raw->SetWake([raw, &notices] {
      const auto at_once =
          base::Deadline::At(base::Deadline::Clock::time_point());
      for (auto record = raw->Next(at_once); record.ok();
           record = raw->Next(at_once)) {
        notices.Hear(*record);
      }
    });
    host.watches.push_back(std::move(watch));
  }
  return absl::OkStatus();
}

absl::Status FillHosts(const std::string& address, Notices& notices,
                       std::vector<Host>& hosts) {
  constexpr int kThreads = 8;
  std::vector<absl::Status> faults(kThreads);
  std::atomic<int> next = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = next++; i < kConnections && faults[t].ok(); i = next++) {
        faults[t] = FillHost(address, i, notices, hosts[i]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& fault : faults) WEFT_RETURN_IF_ERROR(fault);
  return absl::OkStatus();
}

double Quantile(std::vector<double>& values, double quantile) {
  const auto nth = static_cast<std::ptrdiff_t>(
      quantile * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + nth, values.end());
  return values[nth];
}

// `spread` of the steps, for the figures that are taken a step.
void PrintOne(const std::string& name, double value, const std::string& unit,
              const BenchOptions& options, double spread = 0) {
  CaseResult result;
  result.name = name;
  result.value = value;
  result.unit = unit;
  result.runs = kSteps;
  result.spread = spread;
  Print(result, options);
}

}  // namespace

absl::Status BenchCatalogAtScale(const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(
      const auto server,
      apps::ChildProcess::Start(
          "catalog", {apps::SelfPath(), "catalog", "--listen", "127.0.0.1:0",
                      "--http", "none", "--json"}));
  WEFT_ASSIGN_OR_RETURN(const std::string line, server->ReadLine(Patience()));
  const std::string address = nlohmann::json::parse(line)["address"];
  Notices notices;
  std::vector<Host> hosts(kConnections);
  WEFT_RETURN_IF_ERROR(FillHosts(address, notices, hosts));

  std::vector<double> each;
  std::vector<double> last;
  double cpu_before = CpuSeconds(server->pid());
  for (int step = 1; step <= kSteps + 1; ++step) {
    notices.Begin(static_cast<uint64_t>(step));
    const auto start = Clock::now();
    WEFT_RETURN_IF_ERROR(hosts[0]
                             .client
                             ->PublishShard(hosts[0].publisher_id,
                                            static_cast<uint64_t>(step),
                                            Patience())
                             .status());
    WEFT_ASSIGN_OR_RETURN(const std::vector<double> seconds,
                          notices.Await(start));
    if (step == 1) {  // warms
      cpu_before = CpuSeconds(server->pid());
      continue;
    }
    each.insert(each.end(), seconds.begin(), seconds.end());
    last.push_back(seconds.back());
  }
  const double cpu = CpuSeconds(server->pid()) - cpu_before;
  const auto [least, most] = std::minmax_element(last.begin(), last.end());
  const double spread = (*most - *least) / Median(last);
  PrintOne("catalog/notify-p50", Quantile(each, 0.5) * 1e3, "ms", options);
  PrintOne("catalog/notify-p99", Quantile(each, 0.99) * 1e3, "ms", options);
  PrintOne("catalog/notify-all-p50", Quantile(last, 0.5) * 1e3, "ms", options,
           spread);
  PrintOne("catalog/notify-all-p99", Quantile(last, 0.99) * 1e3, "ms", options,
           spread);
  PrintOne("catalog/publish-cpu", cpu / kSteps * 1e3, "ms", options);
  PrintOne("catalog/workers-memory", ResidentMegabytes(server->pid()), "MB",
           options);
  for (Host& host : hosts) host.watches.clear();
  return absl::OkStatus();
}

}  // namespace weft::bench
