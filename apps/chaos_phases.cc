#include "chaos_phases.h"

#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "console.h"
#include "weft/catalog/testing/forwarding_store.h"

namespace weft::apps {
namespace {

class PhaseStore : public catalog::ForwardingStore {
 public:
  PhaseStore(std::shared_ptr<catalog::CatalogStore> store, PhaseGate& gate)
      : ForwardingStore(std::move(store)), gate_(gate) {}

  absl::StatusOr<catalog::Registration> Register(
      const catalog::WorkerInfo& info, const std::string& binding,
      base::Deadline deadline) override {
    gate_.Pass("register.before");
    auto result = ForwardingStore::Register(info, binding, deadline);
    gate_.Pass("register.after");
    return result;
  }
  absl::StatusOr<catalog::VersionRecord> PublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override {
    gate_.Pass("publish.before");
    auto result = ForwardingStore::PublishShard(worker_id, step, deadline);
    gate_.Pass("publish.after");
    return result;
  }
  absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                      base::Deadline revoke_after) override {
    gate_.Pass("begin.before");
    auto result = ForwardingStore::BeginUpdate(worker_id, revoke_after);
    gate_.Pass("begin.after");
    return result;
  }
  absl::StatusOr<catalog::Lease> AcquireLease(
      const std::string& worker_id, const catalog::VersionId& version,
      base::Deadline deadline) override {
    gate_.Pass("lease.before");
    auto result = ForwardingStore::AcquireLease(worker_id, version, deadline);
    if (result.ok()) gate_.Pass("lease.after");
    return result;
  }
  absl::StatusOr<catalog::Lease> AcquireNewestLease(
      const std::string& worker_id, const catalog::VersionId* newer_than,
      base::Deadline deadline) override {
    gate_.Pass("lease.before");
    auto result =
        ForwardingStore::AcquireNewestLease(worker_id, newer_than, deadline);
    if (result.ok()) gate_.Pass("lease.after");
    return result;
  }
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline deadline) override {
    gate_.Pass("commit.before");
    absl::Status status = ForwardingStore::ReleaseLease(
        lease_id, committed, fenced_reason, deadline);
    gate_.Pass("commit.after");
    return status;
  }

 private:
  PhaseGate& gate_;
};

}  // namespace

PhaseGate& PhaseGate::Open(const std::string& armed,
                           std::function<bool()> fenced) {
  auto* const gate = new PhaseGate(std::move(fenced));
  if (!armed.empty()) gate->Arm(armed);
  std::thread([gate] { gate->ReadInput(); }).detach();
  return *gate;
}

void PhaseGate::Arm(const std::string& phase_and_count) {
  const std::lock_guard lock(mutex_);
  const size_t space = phase_and_count.find(' ');
  phase_ = phase_and_count.substr(0, space);
  skip_ = space == std::string::npos
              ? 0
              : std::atoi(phase_and_count.c_str() + space);
  armed_ = true;
}

void PhaseGate::ReadInput() {
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.rfind("park ", 0) == 0) {
      Arm(line.substr(5));
      continue;
    }
    const std::lock_guard lock(mutex_);
    if (line == "resume") {
      armed_ = parked_ = false;
    } else {
      commands_.push(line);
    }
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  armed_ = parked_ = false;
  changed_.notify_all();
}

void PhaseGate::Pass(const char* phase) {
  if (!armed_) return;
  std::unique_lock lock(mutex_);
  if (!armed_ || phase_ != phase) return;
  if (!parked_) {
    if (skip_-- > 0) return;
    parked_ = true;
    PrintLine(
        nlohmann::json(
            {{"event", "parked"}, {"phase", phase}, {"fenced", fenced_()}})
            .dump());
  }
  changed_.wait(lock, [this] { return !parked_; });
}

std::optional<std::string> PhaseGate::NextCommand() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_ || !commands_.empty(); });
  if (commands_.empty()) return std::nullopt;
  std::string command = commands_.front();
  commands_.pop();
  return command;
}

std::shared_ptr<catalog::CatalogStore> WithPhases(
    std::shared_ptr<catalog::CatalogStore> store, PhaseGate& gate) {
  return std::make_shared<PhaseStore>(std::move(store), gate);
}

void PhaseKernels::Copy(const convert::StridedCopy& copy) const {
  gate_.Pass("transfer");
  convert::CpuKernels().Copy(copy);
}

void PhaseKernels::Quantise(const convert::BlockQuantisation& work) const {
  convert::CpuKernels().Quantise(work);
}

void PhaseKernels::DequantiseMxfp4(const convert::Mxfp4Blocks& work) const {
  convert::CpuKernels().DequantiseMxfp4(work);
}

void PhaseKernels::DigestRow(const convert::DigestConstants& constants,
                             const std::byte* data, int64_t num_elements,
                             int item_bytes, int row, int col,
                             convert::DigestValue& value) const {
  gate_.Pass("digest");
  convert::CpuKernels().DigestRow(constants, data, num_elements, item_bytes,
                                  row, col, value);
}

void PhaseKernels::DigestBand(const convert::DigestConstants& constants,
                              const std::byte* data, int64_t row_stride_bytes,
                              int num_rows, int64_t num_cols, int item_bytes,
                              int row, int col,
                              absl::Span<convert::DigestValue> values) const {
  gate_.Pass("digest");
  convert::CpuKernels().DigestBand(constants, data, row_stride_bytes, num_rows,
                                   num_cols, item_bytes, row, col, values);
}

}  // namespace weft::apps
