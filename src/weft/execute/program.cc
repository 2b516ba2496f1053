#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/execute/program_internal.h"

namespace weft::execute {
namespace {

using Clock = base::Deadline::Clock;

// Often enough that a dead peer ends a run at once by human measure, seldom
// enough to cost nothing.
constexpr std::chrono::milliseconds kHealthPeriod{4};
constexpr std::chrono::milliseconds kProgressPeriod{20};

}  // namespace

absl::StatusOr<std::unique_ptr<Program>> BoundProgram::Make(
    const BindInputs& inputs, const convert::Kernels& kernels) {
  std::unique_ptr<BoundProgram> program(
      new BoundProgram(inputs.options, kernels));
  WEFT_RETURN_IF_ERROR(program->Compile(inputs));
  return std::unique_ptr<Program>(std::move(program));
}

absl::Status BoundProgram::Compile(const BindInputs& inputs) {
  WEFT_ASSIGN_OR_RETURN(binding_, BindMemory(inputs));
  for (const Binding::ConvertedMove& converted : binding_.converted) {
    tables_.push_back(std::make_unique<DigestTable>(
        inputs.plan.peers[converted.plan_peer].moves[converted.move].box));
  }
  WEFT_ASSIGN_OR_RETURN(mapped_, CompileMapped(binding_, options_.num_threads));
  WEFT_ASSIGN_OR_RETURN(posted_, PostedDriver::Make(binding_, options_));
  mapped_bytes_done_ = std::vector<std::atomic<int64_t>>(binding_.peers.size());
  MakeReportTemplate();
  LocalWork::Tasks tasks;
  tasks.num_chunks = static_cast<int64_t>(mapped_.chunks.size());
  tasks.run_chunk = [this](int64_t chunk) { RunChunk(chunk); };
  tasks.run_job = [this](const SlotJob& job) { RunSlotJob(job); };
  WEFT_ASSIGN_OR_RETURN(
      work_, LocalWork::Make(options_.num_threads - 1, std::move(tasks)));
  return absl::OkStatus();
}

void BoundProgram::MakeReportTemplate() {
  peer_is_mapped_.resize(binding_.peers.size());
  report_.peers.resize(binding_.peers.size());
  for (const BoundMove& move : binding_.moves) {
    const bool mapped = move.far_mapped != nullptr;
    if (mapped) {
      peer_is_mapped_[move.peer] = true;
      report_.bytes_on_wire += binding_.direction == Direction::kPull
                                   ? move.src_bytes
                                   : move.dst_bytes;
    }
    if (move.witness) continue;
    report_.bytes_moved += move.dst_bytes;
    report_.peers[move.peer].bytes += move.dst_bytes;
    if (mapped) report_.mapped_bytes += move.dst_bytes;
  }
  for (size_t p = 0; p < binding_.peers.size(); ++p) {
    const PeerTransfers& transfers = posted_->transfers(static_cast<int>(p));
    for (const Transfer& transfer : transfers.direct) {
      report_.bytes_on_wire += transfer.wire_bytes;
      report_.posted_ops += transfer.num_ops;
      report_.posted_direct_bytes += transfer.dst_bytes;
    }
    for (const Transfer& transfer : transfers.staged) {
      report_.bytes_on_wire += transfer.wire_bytes;
      report_.posted_ops += transfer.num_ops;
      report_.posted_staged_bytes += transfer.dst_bytes;
    }
    ExecuteReport::Peer& peer = report_.peers[p];
    peer.rank = binding_.peers[p].rank;
    peer.mapped = peer_is_mapped_[p] && transfers.direct.empty() &&
                  transfers.staged.empty();
    peer.way = WayOf(peer_is_mapped_[p], transfers, binding_.direction);
    total_bytes_ += binding_.peers[p].total_bytes;
  }
}

void BoundProgram::Digest(const std::byte* base, const layout::IndexMap& map,
                          tensor::DType dtype, int32_t table) {
  if (constants_ == nullptr) return;
  DigestBlock(kernels_, *constants_, base, map, dtype, *tables_[table]);
}

void BoundProgram::RunChunk(int64_t chunk_index) {
  const MappedChunk& chunk = mapped_.chunks[chunk_index];
  if (chunk.digest >= 0) {
    const MappedDigest& digest = mapped_.digests[chunk.digest];
    Digest(digest.base, digest.map, digest.dtype, digest.table);
  }
  for (int64_t i = chunk.copies_begin; i < chunk.copies_end; ++i) {
    kernels_.Copy(mapped_.copies[i]);
  }
  mapped_bytes_done_[chunk.peer].fetch_add(chunk.dst_bytes,
                                           std::memory_order_relaxed);
}

void BoundProgram::RunSlotJob(const SlotJob& job) {
  if (job.landed_move >= 0) {
    const BoundMove& move = binding_.moves[job.landed_move];
    options_.landed(binding_.peers[move.peer].plan_peer,
                    static_cast<size_t>(move.plan_move));
    return;
  }
  const PeerTransfers& transfers = posted_->transfers(job.peer);
  const Transfer& transfer = transfers.staged[job.transfer];
  std::byte* const slot = posted_->staging().at(job.slot_offset_bytes);
  for (int64_t i = transfer.digests_begin; i < transfer.digests_end; ++i) {
    const SlotDigest& digest = transfers.digests[i];
    Digest(digest.base != nullptr ? digest.base : slot, digest.map,
           digest.dtype, digest.table);
  }
  for (int64_t i = transfer.copies_begin; i < transfer.copies_end; ++i) {
    const SlotCopy& slot_copy = transfers.copies[i];
    convert::StridedCopy copy = slot_copy.copy;
    std::byte* const in_slot = slot + slot_copy.slot_offset_bytes;
    if (binding_.direction == Direction::kPull) {
      copy.src = in_slot;
    } else {
      copy.dst = in_slot;
    }
    kernels_.Copy(copy);
  }
}

int64_t BoundProgram::BytesDone(int peer) const {
  return posted_->bytes_done(peer) +
         mapped_bytes_done_[peer].load(std::memory_order_relaxed);
}

std::string BoundProgram::Where(const std::string& phase, int peer,
                                int32_t move) const {
  const BoundPeer& bound = binding_.peers[peer];
  const bool pull = binding_.direction == Direction::kPull;
  std::string where = absl::StrCat(
      phase, pull ? " from publisher rank " : " to receiver rank ", bound.rank);
  if (move >= 0) {
    absl::StrAppend(&where, ", tensor \"",
                    std::string(binding_.moves[move].tensor_name), "\"");
  }
  absl::StrAppend(&where, ", ", BytesDone(peer), " of ", bound.total_bytes,
                  " bytes done");
  return where;
}

std::string BoundProgram::Standing(int peer) const {
  const auto taken = std::min<int64_t>(
      work_->next_chunk(), static_cast<int64_t>(mapped_.chunks.size()));
  for (int64_t i = std::max<int64_t>(0, taken - 1);
       i < static_cast<int64_t>(mapped_.chunks.size()); ++i) {
    if (mapped_.chunks[i].peer != peer) continue;
    return Where("mapped copy", peer, mapped_.chunks[i].move);
  }
  const PostedFault standing = posted_->Standing(peer);
  if (standing.move >= 0) return Where(standing.phase, peer, standing.move);
  for (size_t m = binding_.moves.size(); m-- > 0;) {
    if (binding_.moves[m].peer == peer) {
      return Where("mapped copy", peer, static_cast<int32_t>(m));
    }
  }
  return Where("transfer", peer, -1);
}

absl::Status BoundProgram::DeadlineFault() {
  int peer = posted_->UnfinishedPeer();
  for (size_t p = 0; p < binding_.peers.size() && peer < 0; ++p) {
    if (BytesDone(static_cast<int>(p)) < binding_.peers[p].total_bytes) {
      peer = static_cast<int>(p);
    }
  }
  if (peer < 0) peer = 0;
  return absl::DeadlineExceededError(
      absl::StrCat("deadline passed in ", Standing(peer)));
}

absl::Status BoundProgram::CheckHealth() {
  for (size_t p = 0; p < binding_.peers.size(); ++p) {
    const absl::Status health = binding_.peers[p].peer->Health();
    if (!health.ok()) {
      return base::Annotate(health, Standing(static_cast<int>(p)));
    }
  }
  return absl::OkStatus();
}

absl::Status BoundProgram::LookAround(base::Deadline deadline) {
  const Clock::time_point now = Clock::now();
  if (now >= deadline.when()) return DeadlineFault();
  if (now >= next_health_) {
    next_health_ = now + kHealthPeriod;
    WEFT_RETURN_IF_ERROR(CheckHealth());
  }
  if (options_.progress && now >= next_progress_) {
    next_progress_ = now + kProgressPeriod;
    int64_t done = 0;
    for (size_t p = 0; p < binding_.peers.size(); ++p) {
      done += BytesDone(static_cast<int>(p));
    }
    options_.progress(done, total_bytes_);
  }
  return absl::OkStatus();
}

absl::Status BoundProgram::Drive(base::Deadline deadline) {
  // With a single thread the wire and the copies take turns.
  const bool alone = options_.num_threads == 1;
  while (true) {
    WEFT_RETURN_IF_ERROR(LookAround(deadline));
    bool advanced = false;
    if (!posted_->Done()) {
      const absl::StatusOr<bool> served = posted_->Service(*work_);
      if (!served.ok()) {
        const PostedFault& fault = posted_->fault();
        return base::Annotate(
            served.status(),
            Where(fault.phase, binding_.moves[fault.move].peer, fault.move));
      }
      advanced = *served;
    }
    if (posted_->Done() && work_->AllChunksTaken()) return absl::OkStatus();
    const bool worked = (alone || !advanced) && work_->TryOne();
    if (!advanced && !worked) std::this_thread::yield();
  }
}

absl::Status BoundProgram::FlushPeers(base::Deadline deadline) {
  if (binding_.direction == Direction::kPull) return absl::OkStatus();
  for (size_t p = 0; p < binding_.peers.size(); ++p) {
    const PeerTransfers& transfers = posted_->transfers(static_cast<int>(p));
    if (transfers.direct.empty() && transfers.staged.empty()) continue;
    const absl::Status flushed = binding_.peers[p].peer->Flush(deadline);
    if (!flushed.ok()) {
      return base::Annotate(flushed, Where("flush", static_cast<int>(p), -1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ExecuteReport> BoundProgram::Run(base::Deadline deadline) {
  const Clock::time_point begin = Clock::now();
  for (auto& table : tables_) table->Clear();
  for (auto& bytes : mapped_bytes_done_) bytes.store(0);
  WEFT_RETURN_IF_ERROR(posted_->Begin());
  work_->Begin();
  next_health_ = begin;
  next_progress_ = begin + kProgressPeriod;
  absl::Status status =
      binding_.peers.empty() ? absl::OkStatus() : Drive(deadline);
  if (status.ok()) {
    work_->Finish();
    status = FlushPeers(deadline);
    // A mapping outlives its process: what was read is only good if the peer
    // was still there afterwards.
    if (status.ok()) status = CheckHealth();
  } else {
    work_->Abort();
  }
  if (!status.ok()) {
    const int64_t left = posted_->Drain();
    if (left == 0) return status;
    return absl::Status(
        status.code(),
        absl::StrCat(std::string(status.message()), "; ", left,
                     " operations may still write: destroy the peer before "
                     "using the destination"));
  }
  if (options_.progress) options_.progress(total_bytes_, total_bytes_);
  ExecuteReport report = report_;
  report.peak_staging_bytes = posted_->staging().peak_bytes();
  report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return report;
}

absl::Span<const std::byte> BoundProgram::scratch() const {
  if (binding_.scratch == nullptr) return {};
  return {binding_.scratch->data(),
          static_cast<size_t>(binding_.scratch_bytes)};
}

absl::Span<const convert::DigestValue> BoundProgram::ConvertedDigests(
    size_t peer_index, size_t move_index) const {
  for (size_t i = 0; i < binding_.converted.size(); ++i) {
    if (binding_.converted[i].plan_peer == peer_index &&
        binding_.converted[i].move == move_index) {
      return tables_[i]->values();
    }
  }
  return {};
}

}  // namespace weft::execute
