#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/status.h"
#include "weft/session/source_link_internal.h"

namespace weft::session {
namespace {

const manifest::TransportAddress* Find(
    const std::vector<manifest::TransportAddress>& list,
    std::string_view transport) {
  for (const manifest::TransportAddress& each : list) {
    if (each.transport == transport) return &each;
  }
  return nullptr;
}

// Reads of a link that are under way at once.
constexpr size_t kWindow = 32;

// Polls until `outstanding` operations have completed; the first failure.
absl::Status Drain(transport::Peer& peer, int64_t outstanding,
                   base::Deadline deadline) {
  std::vector<transport::Completion> completions;
  absl::Status first;
  while (outstanding > 0) {
    completions.clear();
    outstanding -= peer.Poll(completions);
    for (const transport::Completion& each : completions) {
      if (first.ok() && !each.status.ok()) first = each.status;
    }
    WEFT_RETURN_IF_ERROR(peer.Health());
    WEFT_RETURN_IF_ERROR(
        deadline.Check(absl::StrCat("reading from ", peer.label())));
  }
  return first;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SourceLink>> SourceLink::Open(
    const catalog::SourceRecord& source, const std::string& name,
    const ReceiverOptions& options, base::Deadline deadline) {
  std::unique_ptr<SourceLink> link(new SourceLink);
  link->rank_ = source.rank;
  link->generation_ = source.generation;
  link->label_ = name;
  WEFT_ASSIGN_OR_RETURN(link->binding_,
                        manifest::DecodeBinding(source.binding));
  base::FaultList faults;
  std::vector<std::string> refused;  // though both sides offer it
  for (const auto& transport : options.transports) {
    const std::string by(transport->name());
    const auto* address = Find(link->binding_.addresses, by);
    if (address == nullptr) {
      faults.Add(absl::StrCat(by, ": the publisher does not offer it"));
      continue;
    }
    absl::StatusOr<std::unique_ptr<transport::Peer>> peer = [&] {
      const PhaseTimer phase(options.on_phase, "connect");
      return transport->Connect(address->address, link->label_, deadline);
    }();
    if (!peer.ok()) {
      refused.push_back(
          absl::StrCat(by, ": ", std::string(peer.status().message())));
      faults.Add(absl::StrCat(by, ": ", std::string(peer.status().message())));
      continue;
    }
    link->peer_ = *std::move(peer);
    link->transport_ = transport;
    link->transport_name_ = by;
    const absl::Status imported = [&] {
      const PhaseTimer phase(options.on_phase, "open");
      return link->ImportAll();
    }();
    if (imported.ok()) {
      link->refused_ = absl::StrJoin(refused, "; ");
      return link;
    }
    refused.push_back(absl::StrCat(by, ": ", std::string(imported.message())));
    faults.Add(absl::StrCat(by, ": ", std::string(imported.message())));
    link->regions_.clear();
    link->peer_.reset();
  }
  return base::Annotate(faults.ToStatus(absl::StatusCode::kUnavailable),
                        absl::StrCat(link->label_, " cannot be reached"));
}

absl::Status SourceLink::ImportAll() {
  for (size_t i = 0; i < binding_.buffers.size(); ++i) {
    const auto* key = Find(binding_.buffers[i].keys, transport_name_);
    if (key == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("buffer ", i, " is not registered with it"));
    }
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<transport::RemoteRegion> region,
                          peer_->Import(key->address));
    if (region->size_bytes() < binding_.buffers[i].bytes) {
      return absl::DataLossError(absl::StrCat(
          "buffer ", i, " has ", region->size_bytes(), " bytes, the manifest ",
          "says ", binding_.buffers[i].bytes));
    }
    regions_.push_back(std::move(region));
  }
  return absl::OkStatus();
}

bool SourceLink::mapped() const {
  return std::all_of(regions_.begin(), regions_.end(), [](const auto& region) {
    return region->mapped() != nullptr;
  });
}

execute::RemoteRank SourceLink::RemoteRank() const {
  execute::RemoteRank remote;
  remote.rank = rank_;
  remote.peer = peer_.get();
  remote.transport = transport_.get();
  for (const manifest::StoredLocation& where : binding_.stored) {
    remote.stored.push_back({regions_[where.buffer].get(), where.offset_bytes});
  }
  return remote;
}

absl::Status SourceLink::StartReads(absl::Span<const ControlRead> reads) {
  const transport::RemoteRegion& region = control();
  size_t bytes = 0;
  for (const ControlRead& read : reads) {
    const auto size = static_cast<int64_t>(read.local.size());
    if (read.offset_bytes < 0 || read.offset_bytes > region.size_bytes() ||
        size > region.size_bytes() - read.offset_bytes) {
      return absl::OutOfRangeError(absl::StrCat(
          "control bytes [", read.offset_bytes, ",", read.offset_bytes + size,
          ") of ", label_, " lie beyond its ", region.size_bytes()));
    }
    bytes += read.local.size();
  }
  reads_ = reads;
  posted_ = ended_ = posted_bytes_ = 0;
  read_failure_ = absl::OkStatus();
  if (region.mapped() != nullptr) {
    for (const ControlRead& read : reads) {
      std::memcpy(read.local.data(), region.mapped() + read.offset_bytes,
                  read.local.size());
    }
    posted_ = ended_ = reads.size();
    return peer_->Health();
  }
  WEFT_RETURN_IF_ERROR(CheckIdle());
  landing_.resize(bytes);
  return PostReads();
}

absl::Status SourceLink::PostReads() {
  while (read_failure_.ok() && posted_ < reads_.size() &&
         posted_ - ended_ < kWindow) {
    const ControlRead& read = reads_[posted_];
    WEFT_RETURN_IF_ERROR(peer_->Get(
        control(), read.offset_bytes,
        absl::MakeSpan(landing_).subspan(posted_bytes_, read.local.size()),
        /*local_region=*/nullptr, static_cast<transport::OpTag>(posted_)));
    posted_bytes_ += read.local.size();
    ++posted_;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SourceLink::PollReads() {
  if (ended_ < posted_) {
    std::vector<transport::Completion> completions;
    ended_ += static_cast<size_t>(peer_->Poll(completions));
    for (const transport::Completion& each : completions) {
      if (read_failure_.ok()) read_failure_ = each.status;
    }
    WEFT_RETURN_IF_ERROR(peer_->Health());
    WEFT_RETURN_IF_ERROR(PostReads());
    if (ended_ < posted_) return false;
  }
  WEFT_RETURN_IF_ERROR(read_failure_);
  if (control_mapped()) return true;
  auto from = landing_.begin();
  for (const ControlRead& read : reads_) {
    std::copy_n(from, read.local.size(), read.local.begin());
    from += static_cast<std::ptrdiff_t>(read.local.size());
  }
  return true;
}

absl::Status SourceLink::CheckIdle() const {
  if (peer_->in_flight() == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(peer_->in_flight(), " reads from ", label_,
                   " have not ended: connect to it again"));
}

absl::StatusOr<uint64_t> SourceLink::LoadEpochWord() {
  WEFT_RETURN_IF_ERROR(peer_->Health());
  // Orders the loads of the weights against the loads of the word, on both
  // sides of the transfer.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t word =
      std::atomic_ref<uint64_t>(
          *reinterpret_cast<uint64_t*>(control().mapped() +
                                       binding_.epoch_word_offset_bytes))
          .load(std::memory_order_seq_cst);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return word;
}

std::string SourceLink::detour() const {
  std::string detour = refused_;
  for (const auto& region : regions_) {
    if (region->through_host().empty()) continue;
    absl::StrAppend(
        &detour, detour.empty() ? "" : "; ",
        "through memory of the host: ", std::string(region->through_host()));
    break;
  }
  return detour;
}

absl::Status SourceLink::ReadAll(absl::Span<std::byte> local,
                                 int64_t piece_bytes, base::Deadline deadline) {
  size_t in_flight = 0;
  size_t done = 0;
  for (const auto& region : regions_) {
    for (int64_t at = 0; at < region->size_bytes() && done < local.size();
         at += piece_bytes) {
      const auto piece =
          local.subspan(done, static_cast<size_t>(std::min(
                                  piece_bytes, region->size_bytes() - at)));
      WEFT_RETURN_IF_ERROR(
          peer_->Get(*region, at, piece, nullptr,
                     static_cast<transport::OpTag>(in_flight)));
      done += piece.size();
      if (++in_flight < kWindow) continue;
      WEFT_RETURN_IF_ERROR(
          Drain(*peer_, static_cast<int64_t>(in_flight), deadline));
      in_flight = 0;
    }
  }
  return Drain(*peer_, static_cast<int64_t>(in_flight), deadline);
}

absl::StatusOr<double> SourceLink::MeasureReadRate(memory::DeviceDriver* driver,
                                                   int device,
                                                   base::Deadline deadline) {
  const bool on_gpu = device != memory::kHostMemory;
  // An operation between GPUs costs as much as a megabyte on the wire.
  const int64_t piece_bytes = on_gpu ? int64_t{16} << 20 : int64_t{1} << 20;
  // As much as a refit would read, so that no cache makes the link look faster
  // than it can be (the last level of some processors holds 260 MiB).
  constexpr int64_t kMaxProbeBytes = int64_t{512} << 20;
  constexpr double kSlowSeconds = 0.5;
  if (mapped()) return 0.0;
  int64_t probe_bytes = 0;
  for (const auto& region : regions_) probe_bytes += region->size_bytes();
  probe_bytes = std::min(probe_bytes, kMaxProbeBytes);
  if (probe_bytes < piece_bytes) return 0.0;
  WEFT_RETURN_IF_ERROR(CheckIdle());
  if (on_gpu) {
    WEFT_ASSIGN_OR_RETURN(gpu_probe_, memory::DeviceBuffer::Allocate(
                                          *driver, device, probe_bytes));
  } else {
    WEFT_ASSIGN_OR_RETURN(
        host_probe_,
        memory::Buffer::Allocate(memory::MemoryKind::kHost, probe_bytes));
  }
  const absl::Span<std::byte> scratch(
      on_gpu ? gpu_probe_->data() : host_probe_->data(),
      static_cast<size_t>(probe_bytes));
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    // If it fails, the probe stays: what is in flight may still write there.
    WEFT_RETURN_IF_ERROR(ReadAll(scratch, piece_bytes, deadline));
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    // The first round also touches fresh pages and opens the lane, which is
    // nothing beside what a slow link takes.
    const bool slow = seconds > kSlowSeconds;
    if (repeat > 0 || slow) {
      best = std::max(best, static_cast<double>(probe_bytes) / seconds);
    }
    if (slow) break;
  }
  host_probe_.reset();
  gpu_probe_.reset();
  return best;
}

}  // namespace weft::session
