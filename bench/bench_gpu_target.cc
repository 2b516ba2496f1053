#include "bench_gpu_target.h"

#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "endpoints.h"
#include "weft/base/status.h"

namespace weft::bench {

void PhaseLog::Add(const session::RefitPhase& phase) {
  const std::lock_guard lock(mutex_);
  phases_.push_back(phase);
}

std::vector<session::RefitPhase> PhaseLog::Take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(phases_, {});
}

std::map<std::string, double> ContactParts(
    const std::vector<session::RefitPhase>& phases) {
  std::map<std::string, double> parts;
  for (const char* name :
       {"manifests", "plan and connect", "plan", "connect", "open", "bind"}) {
    parts[name] = 0;
  }
  for (const session::RefitPhase& phase : phases) {
    const auto part = parts.find(phase.name);
    if (part == parts.end()) continue;
    part->second +=
        std::chrono::duration<double, std::milli>(phase.end - phase.begin)
            .count();
  }
  return parts;
}

double ContactMilliseconds(const std::map<std::string, double>& parts) {
  return parts.at("manifests") + parts.at("plan and connect");
}

absl::StatusOr<std::unique_ptr<GpuTarget>> GpuTarget::Make(
    const BenchFleet& fleet, const apps::DeviceChoice& device,
    const GpuTargetOptions& options) {
  std::unique_ptr<GpuTarget> made(new GpuTarget);
  session::ReceiverOptions receiver;
  receiver.model = ModelNameOf(fleet.name());
  receiver.placement = fleet.job().target;
  WEFT_ASSIGN_OR_RETURN(made->store_,
                        apps::RankStore::Allocate(receiver.placement, device));
  receiver.memory = made->store_->memory();
  WEFT_ASSIGN_OR_RETURN(receiver.catalog,
                        apps::ConnectCatalog(fleet.address()));
  WEFT_ASSIGN_OR_RETURN(receiver.transports,
                        apps::MakeTransports(options.transport, device));
  receiver.execute.device = device.Options(options.num_sms);
  receiver.execute.num_threads = options.threads;
  receiver.verify = options.verify;
  receiver.measure_bound = false;
  receiver.mode = options.mode;
  receiver.shadow.keep_previous = options.keep_previous;
  receiver.on_phase = [log = &made->phases_](const session::RefitPhase& each) {
    log->Add(each);
  };
  WEFT_ASSIGN_OR_RETURN(made->receiver_, session::Receiver::Create(
                                             std::move(receiver), Patience()));
  return made;
}

absl::StatusOr<session::RefitReport> GpuTarget::Refit() {
  return receiver_->Refit(nullptr, /*newer=*/false, Patience());
}

absl::StatusOr<std::unique_ptr<CopyBound>> CopyBound::Make(
    const apps::DeviceChoice& to, int from, int64_t bytes) {
  std::unique_ptr<CopyBound> made(new CopyBound);
  WEFT_ASSIGN_OR_RETURN(
      made->src_, memory::DeviceBuffer::Allocate(*to.driver, from, bytes));
  WEFT_ASSIGN_OR_RETURN(
      made->dst_, memory::DeviceBuffer::Allocate(*to.driver, to.device, bytes));
  WEFT_RETURN_IF_ERROR(to.driver->EnablePeer(to.device, from));
  WEFT_ASSIGN_OR_RETURN(made->queue_, to.driver->MakeQueue(to.device));
  return made;
}

absl::StatusOr<double> CopyBound::Rate() {
  const auto start = std::chrono::steady_clock::now();
  WEFT_RETURN_IF_ERROR(
      queue_->Copy(dst_->data(), src_->data(), dst_->size_bytes()));
  WEFT_RETURN_IF_ERROR(queue_->Wait(Patience(), "measuring a copy"));
  return static_cast<double>(dst_->size_bytes()) / SecondsSince(start) / 1e9;
}

std::string GpuCaseName(const std::string& kind, const std::string& job) {
  return absl::StrCat(
      "gpu/", kind, "-",
      absl::StrReplaceAll(job.substr(job.find(':') + 1), {{">", "-to-"}}));
}

}  // namespace weft::bench
