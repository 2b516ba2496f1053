#include "bench_fleet.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "endpoints.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

absl::StatusOr<double> AwaitPublished(apps::ChildProcess& source) {
  WEFT_ASSIGN_OR_RETURN(const std::string line, source.ReadLine(Patience()));
  if (line.rfind("published ", 0) != 0) {
    return absl::InternalError(
        absl::StrCat(source.label(), " printed \"", line, "\""));
  }
  return std::strtod(line.c_str() + 10, nullptr);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchFleet>> BenchFleet::Start(
    const std::string& job, int64_t bytes, const std::string& transport,
    const std::string& device, const std::string& http) {
  std::unique_ptr<BenchFleet> fleet(new BenchFleet);
  fleet->name_ = job;
  WEFT_ASSIGN_OR_RETURN(fleet->job_, MakeBenchJob(job, bytes));
  WEFT_ASSIGN_OR_RETURN(
      fleet->catalog_,
      apps::ChildProcess::Start(
          "catalog", {apps::SelfPath(), "catalog", "--listen", "127.0.0.1:0",
                      "--http", http, "--json"}));
  WEFT_ASSIGN_OR_RETURN(const std::string line,
                        fleet->catalog_->ReadLine(Patience()));
  const auto listening = nlohmann::json::parse(line, nullptr, false);
  fleet->address_ = listening.value("address", std::string());
  fleet->http_address_ = listening.value("http", std::string());
  for (size_t rank = 0; rank < fleet->job_.sources.size(); ++rank) {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<apps::ChildProcess> source,
        apps::ChildProcess::Start(
            absl::StrCat("source rank ", rank),
            {apps::SelfPath(), "bench-source", "--catalog", fleet->address_,
             "--job", job, "--bytes", absl::StrCat(bytes), "--rank",
             absl::StrCat(rank), "--transport", transport, "--device",
             device}));
    fleet->sources_.push_back(std::move(source));
  }
  for (const auto& source : fleet->sources_) {
    WEFT_RETURN_IF_ERROR(AwaitPublished(*source).status());
  }
  return fleet;
}

absl::StatusOr<double> BenchFleet::Step() {
  for (const auto& source : sources_) {
    WEFT_RETURN_IF_ERROR(source->WriteLine("step"));
  }
  double slowest = 0;
  for (const auto& source : sources_) {
    WEFT_ASSIGN_OR_RETURN(const double seconds, AwaitPublished(*source));
    slowest = std::max(slowest, seconds);
  }
  return slowest;
}

absl::StatusOr<std::unique_ptr<BenchReceiver>> MakeBenchReceiver(
    const BenchFleet& fleet, const std::string& transport, int threads,
    execute::PostedWay way, bool verify,
    const std::function<void(session::ReceiverOptions&)>& adjust) {
  auto made = std::make_unique<BenchReceiver>();
  WEFT_ASSIGN_OR_RETURN(
      made->owned,
      session::AllocateFor(fleet.job().target, memory::MemoryKind::kShared));
  session::ReceiverOptions options;
  options.model = ModelNameOf(fleet.name());
  options.placement = fleet.job().target;
  options.memory = made->owned.memory;
  WEFT_ASSIGN_OR_RETURN(options.catalog, apps::ConnectCatalog(fleet.address()));
  WEFT_ASSIGN_OR_RETURN(options.transports, apps::MakeTransports(transport));
  options.execute.num_threads = threads;
  options.execute.posted_way = way;
  options.verify = verify;
  options.measure_bound = false;
  if (adjust) adjust(options);
  WEFT_ASSIGN_OR_RETURN(made->receiver, session::Receiver::Create(
                                            std::move(options), Patience()));
  return made;
}

absl::StatusOr<double> RefitAtOnce(
    absl::Span<const std::unique_ptr<BenchReceiver>> receivers) {
  std::vector<absl::StatusOr<session::RefitReport>> reports(
      receivers.size(), session::RefitReport{});
  std::vector<std::thread> threads;
  for (size_t i = 0; i < receivers.size(); ++i) {
    threads.emplace_back([&, i] {
      reports[i] = receivers[i]->receiver->Refit(nullptr, false, Patience());
    });
  }
  for (std::thread& thread : threads) thread.join();
  double slowest_seconds = 0;
  for (const auto& report : reports) {
    WEFT_RETURN_IF_ERROR(report.status());
    slowest_seconds = std::max(slowest_seconds, report->control_seconds);
  }
  return slowest_seconds;
}

}  // namespace weft::bench
