#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/quantise_round.h"
#include "weft/execute/quantise_round_device.h"
#include "weft/session/control_reads_internal.h"
#include "weft/session/epoch_word.h"
#include "weft/session/transfer_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::session {
namespace {

using std::chrono::steady_clock;

// Below it the threads have enough to do with the wire and the digests: on two
// cores turns gained nothing (docs/numbers.md).
constexpr int kLeastThreadsForTurns = 3;

double SecondsSince(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

void AddReport(const execute::ExecuteReport& more,
               execute::ExecuteReport& sum) {
  sum.bytes_moved += more.bytes_moved;
  sum.bytes_on_wire += more.bytes_on_wire;
  sum.seconds += more.seconds;
  sum.copied_seconds += more.copied_seconds;
  sum.digested_seconds += more.digested_seconds;
  sum.mapped_bytes += more.mapped_bytes;
  sum.posted_direct_bytes += more.posted_direct_bytes;
  sum.posted_staged_bytes += more.posted_staged_bytes;
  sum.posted_ops += more.posted_ops;
  sum.peak_staging_bytes =
      std::max(sum.peak_staging_bytes, more.peak_staging_bytes);
  for (const execute::ExecuteReport::Peer& peer : more.peers) {
    const auto known =
        std::find_if(sum.peers.begin(), sum.peers.end(),
                     [&](const auto& each) { return each.rank == peer.rank; });
    if (known == sum.peers.end()) {
      sum.peers.push_back(peer);
      continue;
    }
    known->bytes += peer.bytes;
    known->mapped = known->mapped && peer.mapped;
    if (known->way.empty()) known->way = peer.way;
  }
}

int64_t MovedFrom(const execute::ExecuteReport& report, int64_t rank) {
  for (const execute::ExecuteReport::Peer& peer : report.peers) {
    if (peer.rank == rank) return peer.bytes;
  }
  return 0;
}

// Of `ranges` of the table of `link`, into `values`, which is made as large.
LinkReads ReadsOfTable(SourceLink& link,
                       absl::Span<const ArrivalCheck::TableRange> ranges,
                       std::vector<convert::DigestValue>& values) {
  constexpr auto kValueBytes =
      static_cast<int64_t>(sizeof(convert::DigestValue));
  int64_t total = 0;
  for (const auto& range : ranges) total += range.end - range.begin;
  values.resize(static_cast<size_t>(total));
  auto* to = reinterpret_cast<std::byte*>(values.data());
  LinkReads reads{&link};
  for (const auto& range : ranges) {
    const int64_t bytes = (range.end - range.begin) * kValueBytes;
    reads.reads.push_back(
        {link.binding().digest_table_offset_bytes + range.begin * kValueBytes,
         {to, static_cast<size_t>(bytes)}});
    to += bytes;
  }
  return reads;
}

// One piece of work at a time beside the caller's own.
class BackgroundTask {
 public:
  ~BackgroundTask() { Finish().IgnoreError(); }

  // After Finish. Does the work here if no thread can be had.
  void Start(std::function<absl::Status()> work) {
    auto run = [this, work = std::move(work)] { status_ = work(); };
    try {
      thread_ = std::thread(run);
    } catch (const std::system_error&) {
      run();
    }
  }
  // Waits, and returns what the last work came to, once.
  absl::Status Finish() {
    if (thread_.joinable()) thread_.join();
    return std::exchange(status_, absl::OkStatus());
  }

 private:
  std::thread thread_;
  absl::Status status_;
};

// What the steps of a staged target write of the receiver's own memory.
int64_t QuantisedBytes(const plan::StagedTarget& staged,
                       const manifest::Placement& target) {
  int64_t bytes = 0;
  const auto add = [&](const plan::QuantiseStep::Output& output,
                       const tensor::Box& box) {
    const layout::StoredTensor& stored = target.stored[output.stored];
    bytes += Intersect(stored.fragments[output.fragment].map.box(), box)
                 .num_elements() *
             tensor::ItemBytes(stored.dtype);
  };
  for (const plan::QuantiseStep& step : staged.steps) {
    for (const auto& output : step.elements) add(output, step.box);
    for (const auto& output : step.scales) add(output, step.blocks);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<plan::StagedTarget> StageForTransfer(
    const plan::SourceIndex& sources, const ReceiverOptions& options) {
  if (options.execute.num_threads >= kLeastThreadsForTurns) {
    plan::PlanLimits half = options.limits;
    half.staging_bytes /= 2;
    absl::StatusOr<plan::StagedTarget> staged =
        plan::StageTarget(sources, options.placement, half);
    if (!absl::IsResourceExhausted(staged.status())) return staged;
  }
  return plan::StageTarget(sources, options.placement, options.limits);
}

absl::StatusOr<std::unique_ptr<Transfer>> Transfer::Make(const Inputs& inputs) {
  std::unique_ptr<Transfer> transfer(new Transfer(inputs));
  WEFT_RETURN_IF_ERROR(transfer->Prepare());
  return transfer;
}

absl::Status Transfer::Prepare() {
  memory_ = in_.memory;
  WEFT_ASSIGN_OR_RETURN(device_, DeviceOf(memory_));
  WEFT_ASSIGN_OR_RETURN(device_areas_,
                        DeviceAreas::Make(memory_, in_.options.execute.device));
  if (!in_.staged.rounds.empty()) WEFT_RETURN_IF_ERROR(AllocateStaging());
  // Our own memory is registered with the transport that posts into it.
  std::vector<const transport::Region*> area_regions(memory_.areas.size(),
                                                     nullptr);
  const auto posted =
      std::find_if(in_.links.begin(), in_.links.end(),
                   [](const auto& link) { return !link->mapped(); });
  for (size_t a = 0; posted != in_.links.end() && a < memory_.areas.size();
       ++a) {
    const MemoryArea& area = memory_.areas[a];
    if (area.device != memory::kHostMemory &&
        !(*posted)->transport().capabilities().device_memory) {
      continue;
    }
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<transport::Region> region,
        (*posted)->transport().Register(area.bytes, area.buffer));
    area_regions[a] = region.get();
    regions_.push_back(std::move(region));
  }
  const auto& stored = in_.staged.placement.stored;
  for (size_t i = 0; i < stored.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(const int64_t bytes, StoredBytes(stored[i]));
    const int32_t area = memory_.stored[i].buffer;
    local_.push_back({StoredBase(memory_, i), bytes, area_regions[area],
                      memory_.areas[area].device});
  }
  for (const auto& link : in_.links) all_links_.push_back(link.get());
  if (!in_.staged.rounds.empty()) {
    part_plans_ = plan::PlansOfRounds(in_.plan, in_.staged);
  }
  WEFT_ASSIGN_OR_RETURN(direct_,
                        Bind(part_plans_.empty() ? in_.plan : part_plans_[0]));
  return absl::OkStatus();
}

absl::Status Transfer::AllocateStaging() {
  area_bytes_ =
      base::AlignUp(in_.staged.staging_bytes, plan::kScratchAlignBytes);
  const bool takes_turns =
      device_ == memory::kHostMemory && in_.staged.rounds.size() > 1 &&
      in_.options.execute.num_threads >= kLeastThreadsForTurns &&
      2 * area_bytes_ <= in_.options.limits.staging_bytes / 2;
  num_areas_ = takes_turns ? 2 : 1;
  const int64_t bytes = static_cast<int64_t>(num_areas_) * area_bytes_;
  const auto area = static_cast<int32_t>(memory_.areas.size());
  if (device_ != memory::kHostMemory) {
    WEFT_ASSIGN_OR_RETURN(
        device_staging_,
        memory::DeviceBuffer::Allocate(*in_.options.execute.device.driver,
                                       device_, bytes));
    memory_.areas.push_back(
        {.bytes = {device_staging_->data(), static_cast<size_t>(bytes)},
         .device = device_});
  } else {
    WEFT_ASSIGN_OR_RETURN(
        staging_, memory::Buffer::Allocate(memory::MemoryKind::kHost, bytes));
    memory_.areas.push_back({staging_->span(), staging_.get()});
  }
  for (size_t round = 0; round < in_.staged.rounds.size(); ++round) {
    const plan::StageRound& steps = in_.staged.rounds[round];
    for (size_t i = 0; i < steps.num_steps; ++i) {
      memory_.stored.push_back(
          {area,
           StagingOffset(round) +
               in_.staged.steps[steps.first_step + i].stage_offset_bytes});
    }
  }
  quantised_bytes_ = QuantisedBytes(in_.staged, in_.options.placement);
  return absl::OkStatus();
}

absl::Status Transfer::Quantise(size_t round, int num_threads,
                                base::Deadline deadline) {
  const PhaseTimer phase(in_.options.on_phase,
                         absl::StrCat("quantise round ", round));
  if (device_ != memory::kHostMemory) {
    return execute::QuantiseRoundOnDevice(
        device_, in_.staged, in_.options.placement, round,
        device_staging_->data() + StagingOffset(round), local_,
        in_.options.execute.device, deadline);
  }
  return execute::QuantiseRound(in_.staged, in_.options.placement, round,
                                staging_->data() + StagingOffset(round), local_,
                                *in_.options.kernels, num_threads);
}

absl::StatusOr<std::unique_ptr<Transfer::Part>> Transfer::Bind(
    const plan::Plan& plan) {
  auto part = std::make_unique<Part>();
  part->plan = &plan;
  for (const plan::PeerPlan& peer : plan.peers) {
    part->links.push_back(&LinkOf(peer));
  }
  part->arrival = std::make_unique<ArrivalCheck>(*part->plan, in_.index,
                                                 in_.staged.placement, memory_);
  execute::ExecuteOptions options = in_.options.execute;
  options.landed = [arrival = part->arrival.get()](size_t peer, size_t move) {
    arrival->Landed(peer, move);
  };
  options.digested = [this, part = part.get()](size_t peer, size_t move) {
    part->arrival->Digested(peer, move, *part->program, part->tables[peer]);
    if (part->end.Add(part->arrival->BytesOf(peer, move),
                      steady_clock::now())) {
      near_end_();
    }
  };
  options.beside = [this, part = part.get()] {
    return in_.options.verify ? ReadTables(*part, deadline_) : absl::OkStatus();
  };
  WEFT_ASSIGN_OR_RETURN(part->program, BindProgram(plan, std::move(options)));
  return part;
}

absl::StatusOr<std::unique_ptr<execute::Program>> Transfer::BindProgram(
    const plan::Plan& plan, execute::ExecuteOptions options) {
  // Stages take their part of the staging budget.
  options.staging_bytes -= static_cast<int64_t>(num_areas_) * area_bytes_;
  std::vector<execute::RemoteRank> remotes;
  for (const plan::PeerPlan& peer : plan.peers) {
    remotes.push_back(LinkOf(peer).RemoteRank());
  }
  return execute::BindPull(plan, in_.index, in_.staged.placement,
                           *in_.options.kernels, local_, remotes, options);
}

SourceLink& Transfer::LinkOf(const plan::PeerPlan& peer) const {
  return **std::find_if(
      in_.links.begin(), in_.links.end(),
      [&](const auto& link) { return link->rank() == peer.src_rank; });
}

absl::Status Transfer::Run(const catalog::VersionId& version, bool resume,
                           base::Deadline deadline, RefitReport& report) {
  absl::Status done = RunParts(version, resume, deadline, report);
  if (!absl::IsDeadlineExceeded(done)) return done;
  return absl::DeadlineExceededError(
      absl::StrCat(std::string(done.message()),
                   "; refit again when the network between the hosts is well, "
                   "with a longer deadline if it is only slow"));
}

absl::Status Transfer::RunParts(const catalog::VersionId& version, bool resume,
                                base::Deadline deadline, RefitReport& report) {
  WEFT_RETURN_IF_ERROR(device_areas_.Check());
  WEFT_RETURN_IF_ERROR(
      CheckEpochWords(all_links_, version, "before", deadline));
  digest_ = {};
  const auto transfer_start = steady_clock::now();
  execute::ApplyZeroFills(*direct_->plan, in_.staged.placement, local_);
  report.transfer_seconds += SecondsSince(transfer_start);
  // Digests in place are taken by the host, from tables alone.
  const bool may_resume =
      resume && in_.options.verify && device_ == memory::kHostMemory;
  WEFT_RETURN_IF_ERROR(may_resume
                           ? ResumeDirect(version, deadline, report)
                           : RunPart(*direct_, version, deadline, report));
  report.bytes = report.execute.bytes_moved + quantised_bytes_;
  WEFT_RETURN_IF_ERROR(RunRounds(version, deadline, report));
  // A version is published once, and its word does not come back: one look at
  // the end is enough for all parts.
  WEFT_RETURN_IF_ERROR(CheckEpochWords(all_links_, version, "after", deadline));
  report.execute.peak_staging_bytes +=
      static_cast<int64_t>(num_areas_) * area_bytes_;
  report.wire_bytes = report.execute.bytes_on_wire;
  if (in_.options.verify) report.digest = convert::ToHex(digest_);
  for (size_t p = 0; p < in_.links.size(); ++p) {
    const int64_t rank = in_.links[p]->rank();
    report.peers.push_back({rank, in_.links[p]->name(),
                            in_.links[p]->transport_name(),
                            in_.links[p]->mapped(),
                            may_resume ? MovedFrom(report.execute, rank)
                                       : in_.plan.peers[p].dst_bytes,
                            in_.links[p]->detour()});
  }
  return absl::OkStatus();
}

absl::Status Transfer::RunRounds(const catalog::VersionId& version,
                                 base::Deadline deadline, RefitReport& report) {
  const bool takes_turns = num_areas_ > 1;
  // Beside a transfer one thread is left to drive the wire.
  const int num_threads =
      in_.options.execute.num_threads - (takes_turns ? 1 : 0);
  BackgroundTask quantising;
  for (size_t round = 0; round < in_.staged.rounds.size(); ++round) {
    // Bound anew: hundreds of rounds would keep hundreds of programs, each with
    // threads and a staging ring of its own.
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Part> part,
                          Bind(part_plans_[round + 1]));
    WEFT_RETURN_IF_ERROR(RunPart(*part, version, deadline, report));
    const auto quantise = [this, round, num_threads, deadline] {
      return Quantise(round, num_threads, deadline);
    };
    const auto quantise_start = steady_clock::now();
    if (takes_turns) {
      // Then the other area is free for the next round.
      WEFT_RETURN_IF_ERROR(quantising.Finish());
      quantising.Start(quantise);
      if (round + 1 == in_.staged.rounds.size()) {
        WEFT_RETURN_IF_ERROR(quantising.Finish());
      }
    } else {
      WEFT_RETURN_IF_ERROR(quantise());
    }
    report.quantise_seconds += SecondsSince(quantise_start);
  }
  return absl::OkStatus();
}

absl::StatusOr<execute::ExecuteReport> Transfer::Move(Part& part,
                                                      base::Deadline deadline) {
  PhaseTimer phase(in_.options.on_phase,
                   absl::StrCat("move from ", part.links.size(), " peers"));
  absl::StatusOr<execute::ExecuteReport> moved = part.program->Run(deadline);
  if (moved.ok()) phase.set_bytes(moved->bytes_on_wire);
  return moved;
}

absl::Status Transfer::RunPart(Part& part, const catalog::VersionId& version,
                               base::Deadline deadline, RefitReport& report) {
  const convert::DigestConstants constants =
      convert::DigestConstants::FromSeed(DigestSeed(version));
  const auto* const digested = in_.options.verify ? &constants : nullptr;
  part.program->SetDigestConstants(digested);
  part.arrival->Begin(*in_.options.kernels, digested);
  part.tables_read = false;
  deadline_ = deadline;
  const auto transfer_start = steady_clock::now();
  part.end.Begin(part.arrival->TotalBytes(), transfer_start);
  absl::StatusOr<execute::ExecuteReport> moved = Move(part, deadline);
  part.program->SetDigestConstants(nullptr);
  WEFT_RETURN_IF_ERROR(moved.status());
  report.transfer_seconds += SecondsSince(transfer_start);
  AddReport(*moved, report.execute);
  // Between the two looks at the epoch words, whenever that is.
  if (digested != nullptr && !part.tables_read) {
    WEFT_RETURN_IF_ERROR(ReadTables(part, deadline));
  }
  if (digested == nullptr) return absl::OkStatus();
  const PhaseTimer phase(in_.options.on_phase, "verify");
  const auto verify_start = steady_clock::now();
  const absl::StatusOr<ArrivalResult> arrived = part.arrival->Run(
      *part.program, part.tables, in_.options.execute.num_threads);
  if (!arrived.ok()) {
    for (const size_t peer : part.arrival->failed_peers()) {
      failed_ranks_.insert(part.links[peer]->rank());
    }
    // A version that changed meanwhile says more than what differs by it.
    WEFT_RETURN_IF_ERROR(
        CheckEpochWords(part.links, version, "after", deadline));
    return arrived.status();
  }
  report.verify_seconds += SecondsSince(verify_start);
  report.tiles_checked += arrived->tiles_checked;
  digest_ += arrived->digest;
  return absl::OkStatus();
}

absl::Status Transfer::ReadTables(Part& part, base::Deadline deadline) {
  const PhaseTimer phase(in_.options.on_phase, "digest tables");
  part.tables.resize(part.links.size());
  std::vector<LinkReads> wanted;
  for (size_t p = 0; p < part.links.size(); ++p) {
    wanted.push_back(ReadsOfTable(
        *part.links[p], part.arrival->table_ranges()[p], part.tables[p]));
  }
  WEFT_RETURN_IF_ERROR(AllRead(ReadFromAll(wanted, deadline)));
  part.tables_read = true;
  return absl::OkStatus();
}

absl::Status Transfer::CheckEpochWords(absl::Span<SourceLink* const> links,
                                       const catalog::VersionId& version,
                                       std::string_view when,
                                       base::Deadline deadline) {
  const PhaseTimer phase(in_.options.on_phase,
                         absl::StrCat("epoch words ", std::string(when)));
  const uint64_t expected = EpochWord(version);
  const std::vector<absl::StatusOr<uint64_t>> words =
      ReadEpochWords(links, deadline);
  std::vector<absl::Status> read;
  for (const auto& word : words) read.push_back(word.status());
  WEFT_RETURN_IF_ERROR(AllRead(read));
  base::FaultList faults;
  for (size_t i = 0; i < links.size(); ++i) {
    if (*words[i] == expected) continue;
    faults.Add(absl::StrCat(
        links[i]->name(), " no longer holds ", catalog::ToString(version),
        " (checked ", std::string(when), " the transfer): its memory ",
        (*words[i] & 1) != 0 ? "is being changed" : "holds another version"));
  }
  return faults.ToStatus(absl::StatusCode::kAborted);
}

}  // namespace weft::session
