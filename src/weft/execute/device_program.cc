#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/device_program_internal.h"
#include "weft/execute/helpers_internal.h"

namespace weft::execute {
namespace {

namespace cuda = convert::cuda;
using Clock = base::Deadline::Clock;

constexpr std::chrono::milliseconds kHealthPeriod{4};
constexpr std::chrono::microseconds kSpin{500};
// After an abort kernels end within a tile; a copy of the engines ends when it
// is done, which at the slowest link takes this long for some 50 GB.
constexpr std::chrono::seconds kDrainPatience{10};
// Multiprocessors that digests take: faster than the link, for items of a byte
// too, and the rest is left to the engine. With all of them 16.4 GB of bf16
// arrived in 42.5 ms and not in 41.4 (two H200s); FP8 gains nothing by it.
constexpr int kDigestSms = 32;
constexpr int64_t kPinnedPageBytes = 4096;
// Digests that are worth a thread of their own (some 50 us) to the host.
constexpr int64_t kLeastValuesOfHelper = 20000;

double SecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

CUstream_st* StreamOf(const memory::DeviceQueue& queue) {
  return reinterpret_cast<CUstream_st*>(queue.stream());
}

// What a helper writes and the driving thread looks at.
struct BesideState {
  std::atomic<bool> done{false};
  absl::Status status;  // valid when done
};

}  // namespace

absl::StatusOr<int> DeviceOf(const BindInputs& inputs) {
  int near = memory::kHostMemory;
  for (const LocalStored& local : inputs.local) {
    if (local.device == memory::kHostMemory || local.device == near) continue;
    if (near != memory::kHostMemory) {
      return absl::InvalidArgumentError(
          absl::StrCat("the memory of one rank lies on GPU ", near, " and on ",
                       local.device, "; give each GPU a rank of its own"));
    }
    near = local.device;
  }
  int device = near;
  for (const RemoteRank& remote : inputs.remotes) {
    for (const RemoteStored& stored : remote.stored) {
      if (device != memory::kHostMemory || stored.region == nullptr) continue;
      device = stored.region->device();
    }
  }
  if (device != memory::kHostMemory &&
      inputs.options.device.driver == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory of GPU ", device, " is given, but no driver for it"));
  }
  return device;
}

DeviceProgram::DeviceProgram(const BindInputs& inputs)
    : options_(inputs.options), device_(inputs.device) {}

DeviceProgram::~DeviceProgram() {
  // The queues wait for what runs before anything it uses goes.
  line_queue_.reset();
  copy_queue_.reset();
  digest_queue_.reset();
  posted_.reset();
  for (std::byte* const address : pinned_) {
    options_.device.driver->Unpin(address).IgnoreError();
  }
}

absl::StatusOr<std::unique_ptr<Program>> DeviceProgram::Make(
    const BindInputs& inputs) {
  std::unique_ptr<DeviceProgram> program(new DeviceProgram(inputs));
  WEFT_RETURN_IF_ERROR(program->Compile(inputs));
  return std::unique_ptr<Program>(std::move(program));
}

absl::Status DeviceProgram::Compile(const BindInputs& inputs) {
  WEFT_ASSIGN_OR_RETURN(binding_, BindMemory(inputs));
  for (auto* const queue : {&line_queue_, &copy_queue_, &digest_queue_}) {
    WEFT_ASSIGN_OR_RETURN(*queue, options_.device.driver->MakeQueue(device_));
  }
  WEFT_RETURN_IF_ERROR(PinHostEnds(inputs));
  WEFT_ASSIGN_OR_RETURN(posted_,
                        DevicePosted::Make(binding_, options_, device_));
  WEFT_RETURN_IF_ERROR(CompileBatches(inputs));
  MakeReport();
  return absl::OkStatus();
}

absl::Status DeviceProgram::PinHostEnds(const BindInputs& inputs) {
  // Whole pages, each once, however many tensors share them.
  std::map<std::byte*, std::byte*> ranges;
  const auto add = [&](std::byte* begin, int64_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(begin);
    const uintptr_t first = address / kPinnedPageBytes * kPinnedPageBytes;
    const uintptr_t end =
        base::CeilDiv(static_cast<int64_t>(address) + bytes, kPinnedPageBytes) *
        kPinnedPageBytes;
    std::byte*& known = ranges[reinterpret_cast<std::byte*>(first)];
    known = std::max(known, reinterpret_cast<std::byte*>(end));
  };
  for (const LocalStored& local : inputs.local) {
    if (local.device == memory::kHostMemory && local.size_bytes > 0) {
      add(local.base, local.size_bytes);
    }
  }
  for (const BoundMove& move : binding_.moves) {
    if (move.far_mapped != nullptr &&
        move.far_region->device() == memory::kHostMemory) {
      add(move.far_region->mapped(), move.far_region->size_bytes());
    }
  }
  std::byte* end = nullptr;
  std::vector<std::pair<std::byte*, std::byte*>> joined;
  for (const auto& [begin, range_end] : ranges) {
    if (!joined.empty() && begin <= end) {
      joined.back().second = std::max(joined.back().second, range_end);
    } else {
      joined.push_back({begin, range_end});
    }
    end = joined.back().second;
  }
  for (const auto& [begin, range_end] : joined) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        options_.device.driver->Pin(begin, range_end - begin),
        absl::StrCat("pinning ", range_end - begin,
                     " bytes of host memory for GPU ", device_)));
    pinned_.push_back(begin);
  }
  return absl::OkStatus();
}

void DeviceProgram::MakeReport() {
  report_.peers.resize(binding_.peers.size());
  for (size_t p = 0; p < binding_.peers.size(); ++p) {
    report_.peers[p].rank = binding_.peers[p].rank;
    report_.peers[p].mapped = true;
    report_.peers[p].way = absl::StrCat("cuda:", device_);
  }
  std::vector<bool> has_mapped(binding_.peers.size());
  for (const BoundMove& move : binding_.moves) {
    const bool mapped = move.far_mapped != nullptr;
    has_mapped[move.peer] = has_mapped[move.peer] || mapped;
    if (mapped) {
      report_.bytes_on_wire += binding_.direction == Direction::kPull
                                   ? move.src_bytes
                                   : move.dst_bytes;
    }
    total_bytes_ += move.dst_bytes;
    if (move.witness) continue;
    report_.bytes_moved += move.dst_bytes;
    if (mapped) report_.mapped_bytes += move.dst_bytes;
    report_.peers[move.peer].bytes += move.dst_bytes;
  }
  if (posted_ == nullptr) return;
  for (size_t p = 0; p < binding_.peers.size(); ++p) {
    AddPosted(static_cast<int>(p), has_mapped[p], report_.peers[p]);
  }
  report_.peak_staging_bytes = posted_->ring_bytes();
}

void DeviceProgram::AddPosted(int peer, bool has_mapped,
                              ExecuteReport::Peer& report) {
  const PeerTransfers& transfers = posted_->transfers(peer);
  for (const auto* list : {&transfers.direct, &transfers.staged}) {
    const bool staged = list == &transfers.staged;
    for (const Transfer& transfer : *list) {
      report_.bytes_on_wire += transfer.wire_bytes;
      report_.posted_ops += transfer.num_ops;
      (staged ? report_.posted_staged_bytes : report_.posted_direct_bytes) +=
          transfer.dst_bytes;
    }
  }
  if (transfers.direct.empty() && transfers.staged.empty()) return;
  report.mapped = false;
  report.way = absl::StrCat(WayOf(has_mapped, transfers, binding_.direction),
                            " to cuda:", device_);
  for (const BoundMove& move : binding_.moves) {
    if (move.peer != peer || move.far_mapped != nullptr) continue;
    if (const auto why = move.far_region->through_host(); !why.empty()) {
      absl::StrAppend(&report.way, " through the host (", std::string(why),
                      ")");
      return;
    }
  }
}

absl::Status DeviceProgram::Launch(base::Deadline deadline) {
  // Copies of rows and kernels have a queue of their own: what starts slowly,
  // or waits for multiprocessors, does not hold up the others.
  if (options_.device.stream.has_value()) {
    WEFT_RETURN_IF_ERROR(line_queue_->WaitForStream(*options_.device.stream));
    WEFT_RETURN_IF_ERROR(copy_queue_->WaitForStream(*options_.device.stream));
  }
  const cuda::LaunchOptions launch = {.num_sms = options_.device.num_sms,
                                      .constants = constants_};
  for (const Batch& batch : batches_) {
    if (batch.lines != nullptr) {
      WEFT_RETURN_IF_ERROR(batch.lines->Launch(StreamOf(*line_queue_), launch));
    }
    if (batch.copies != nullptr) {
      WEFT_RETURN_IF_ERROR(
          batch.copies->Launch(StreamOf(*copy_queue_), launch));
    }
    if (!batch.posted) WEFT_RETURN_IF_ERROR(LaunchDigests(batch));
  }
  posted_left_ = posted_ != nullptr;
  return posted_left_ ? posted_->Begin(constants_, deadline) : absl::OkStatus();
}

absl::Status DeviceProgram::LaunchDigests(const Batch& batch) {
  if (batch.digests == nullptr || !digests()) return absl::OkStatus();
  cuda::LaunchOptions digesting = {.num_sms = options_.device.num_sms,
                                   .constants = constants_};
  if (digesting.num_sms == 0 || digesting.num_sms > kDigestSms) {
    digesting.num_sms = kDigestSms;
  }
  WEFT_RETURN_IF_ERROR(digest_queue_->WaitForStream(line_queue_->stream()));
  WEFT_RETURN_IF_ERROR(digest_queue_->WaitForStream(copy_queue_->stream()));
  return batch.digests->Launch(StreamOf(*digest_queue_), digesting);
}

absl::Status DeviceProgram::ServePosted() {
  if (!posted_left_) return absl::OkStatus();
  WEFT_RETURN_IF_ERROR(posted_->Service());
  if (!posted_->Done()) return absl::OkStatus();
  posted_left_ = false;
  return LaunchDigests(batches_.back());
}

absl::Status DeviceProgram::CheckHealth() const {
  for (const BoundPeer& peer : binding_.peers) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        peer.peer->Health(),
        absl::StrCat("copies of GPU ", device_,
                     binding_.direction == Direction::kPull
                         ? " from publisher rank "
                         : " to receiver rank ",
                     peer.rank, ", ", peer.total_bytes, " bytes")));
  }
  return absl::OkStatus();
}

absl::Status DeviceProgram::Drive(Clock::time_point begin,
                                  base::Deadline deadline,
                                  ExecuteReport& report) {
  Clock::time_point next_health = begin;
  size_t next_batch = digests() && options_.digested ? 0 : batches_.size();
  BesideState beside;
  Helpers& helpers = HelpersOfRun();
  // Whatever the end is, nobody works on what this run leaves.
  const absl::Cleanup finish = [&helpers] { helpers.Finish(); };
  const auto do_beside = [this, &beside] {
    if (options_.beside) beside.status = options_.beside();
    beside.done = true;
  };
  if (posted_ == nullptr) helpers.Add(do_beside);
  while (true) {
    WEFT_RETURN_IF_ERROR(ServePosted());
    // It may use the peers, which belong to one thread: here, and while no
    // operation of theirs is under way.
    if (posted_ != nullptr && !posted_left_ && !beside.done) do_beside();
    if (beside.done) WEFT_RETURN_IF_ERROR(beside.status);
    if (beside.done && next_batch < batches_.size() &&
        !(batches_[next_batch].posted && posted_left_)) {
      WEFT_ASSIGN_OR_RETURN(const bool done, Done(batches_[next_batch]));
      if (done) {
        std::vector<std::function<void()>> jobs;
        for (const MoveName& each : batches_[next_batch].moves) {
          jobs.push_back(
              [this, each] { options_.digested(each.peer, each.move); });
        }
        helpers.Add(std::move(jobs));
        ++next_batch;
        continue;
      }
    }
    WEFT_ASSIGN_OR_RETURN(const bool lines_copied, line_queue_->Idle());
    WEFT_ASSIGN_OR_RETURN(const bool rows_copied, copy_queue_->Idle());
    const bool copied = lines_copied && rows_copied && !posted_left_;
    const Clock::time_point now = Clock::now();
    if (copied && report.copied_seconds == 0) {
      report.copied_seconds = SecondsBetween(begin, now);
    }
    WEFT_ASSIGN_OR_RETURN(const bool digested, digest_queue_->Idle());
    if (copied && digested) {
      if (report.digested_seconds == 0) {
        report.digested_seconds = SecondsBetween(begin, now);
      }
      const bool told = next_batch == batches_.size();
      if (told && beside.done && helpers.Idle()) return beside.status;
      if (told && helpers.DoOne()) continue;
    }
    if (now >= deadline.when()) {
      return absl::DeadlineExceededError(absl::StrCat(
          "deadline passed in copies of GPU ", device_, ", ", total_bytes_,
          " bytes from ", binding_.peers.size(), " ranks",
          copied ? ", all copied and not all digested" : ""));
    }
    if (now >= next_health) {
      next_health = now + kHealthPeriod;
      WEFT_RETURN_IF_ERROR(CheckHealth());
    }
    if (now - begin > kSpin) std::this_thread::yield();
  }
}

absl::StatusOr<bool> DeviceProgram::Done(const Batch& batch) const {
  for (const auto* program : {&batch.copies, &batch.digests}) {
    if (*program == nullptr) continue;
    WEFT_ASSIGN_OR_RETURN(const bool done, (*program)->Done());
    if (!done) return false;
  }
  return true;
}

size_t DeviceProgram::NumHelpers() const {
  if (!digests() || !options_.digested) return 0;
  return static_cast<size_t>(
      std::clamp(num_values_ / kLeastValuesOfHelper, int64_t{0},
                 static_cast<int64_t>(options_.num_threads) - 1));
}

Helpers& DeviceProgram::HelpersOfRun() {
  if (helpers_ == nullptr || helpers_->num_threads() < NumHelpers()) {
    helpers_ = std::make_unique<Helpers>(NumHelpers());
  }
  return *helpers_;
}

bool DeviceProgram::Drain() {
  for (const Batch& batch : batches_) {
    for (const auto* program : {&batch.lines, &batch.copies, &batch.digests}) {
      if (*program != nullptr) (*program)->Abort().IgnoreError();
    }
  }
  if (posted_ != nullptr) posted_->Abort();
  if (posted_ != nullptr && posted_->Drain() > 0) return false;
  const base::Deadline deadline = base::Deadline::After(kDrainPatience);
  const auto stopped = [&](memory::DeviceQueue& queue) {
    // An error of the GPU means that its context is lost: nothing writes.
    return !absl::IsDeadlineExceeded(queue.Wait(deadline, "draining the GPU"));
  };
  return stopped(*line_queue_) && stopped(*copy_queue_) &&
         stopped(*digest_queue_) &&
         (posted_ == nullptr || stopped(posted_->queue()));
}

absl::StatusOr<ExecuteReport> DeviceProgram::Run(base::Deadline deadline) {
  const Clock::time_point begin = Clock::now();
  for (memory::DeviceQueue* queue :
       {line_queue_.get(), copy_queue_.get(), digest_queue_.get(),
        posted_ == nullptr ? nullptr : &posted_->queue()}) {
    if (queue == nullptr) continue;
    WEFT_ASSIGN_OR_RETURN(const bool idle, queue->Idle());
    if (!idle) {
      return absl::UnavailableError(absl::StrCat(
          "work of an earlier run is still going on at GPU ", device_));
    }
  }
  absl::Status status = Launch(deadline);
  ExecuteReport report = report_;
  if (status.ok()) status = Drive(begin, deadline, report);
  // What was read is only good if the peer was still there afterwards.
  if (status.ok()) status = CheckHealth();
  if (!status.ok()) {
    if (Drain()) return status;
    return absl::Status(
        status.code(),
        absl::StrCat(std::string(status.message()), "; GPU ", device_,
                     " may still write: destroy the peer before using the "
                     "destination"));
  }
  if (options_.progress) options_.progress(total_bytes_, total_bytes_);
  report.seconds = SecondsBetween(begin, Clock::now());
  return report;
}

absl::Span<const std::byte> DeviceProgram::scratch() const { return {}; }

absl::Span<const convert::DigestValue> DeviceProgram::ValuesOf(
    const DigestName& name) const {
  const auto found = digests_.find(name);
  if (found == digests_.end()) return {};
  const DigestSlice& slice = found->second;
  if (slice.posted_table >= 0) {
    return posted_->ConvertedValues(slice.posted_table);
  }
  if (slice.program == nullptr) return {};
  return slice.program->digest_values().subspan(
      static_cast<size_t>(slice.first_value),
      static_cast<size_t>(slice.num_values));
}

}  // namespace weft::execute
