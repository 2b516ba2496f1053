#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
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
    if (imported.ok()) return link;
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

absl::Status SourceLink::ReadControl(int64_t offset_bytes,
                                     absl::Span<std::byte> local,
                                     base::Deadline deadline) {
  const transport::RemoteRegion& region = *regions_[binding_.control_buffer];
  if (offset_bytes < 0 || offset_bytes > region.size_bytes() ||
      static_cast<int64_t>(local.size()) > region.size_bytes() - offset_bytes) {
    return absl::OutOfRangeError(absl::StrCat(
        "control bytes [", offset_bytes, ",", offset_bytes + local.size(),
        ") of ", label_, " lie beyond its ", region.size_bytes()));
  }
  if (region.mapped() != nullptr) {
    std::memcpy(local.data(), region.mapped() + offset_bytes, local.size());
    return peer_->Health();
  }
  WEFT_RETURN_IF_ERROR(peer_->Get(region, offset_bytes, local,
                                  /*local_region=*/nullptr, /*tag=*/0));
  return Drain(*peer_, 1, deadline);
}

absl::StatusOr<uint64_t> SourceLink::ReadEpochWord(base::Deadline deadline) {
  const transport::RemoteRegion& region = *regions_[binding_.control_buffer];
  if (region.mapped() != nullptr) {
    WEFT_RETURN_IF_ERROR(peer_->Health());
    // Orders the loads of the weights against the loads of the word, on both
    // sides of the transfer.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint64_t word =
        std::atomic_ref<uint64_t>(
            *reinterpret_cast<uint64_t*>(region.mapped() +
                                         binding_.epoch_word_offset_bytes))
            .load(std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return word;
  }
  uint64_t word = 0;
  WEFT_RETURN_IF_ERROR(ReadControl(
      binding_.epoch_word_offset_bytes,
      absl::MakeSpan(reinterpret_cast<std::byte*>(&word), sizeof(word)),
      deadline));
  return word;
}

absl::StatusOr<double> SourceLink::MeasureReadRate(base::Deadline deadline) {
  constexpr int64_t kPieceBytes = int64_t{1} << 20;
  constexpr int64_t kWindow = 32;
  // As much as a refit would read, so that no cache makes the link look faster
  // than it can be (the last level of some processors holds 260 MiB).
  constexpr int64_t kMaxProbeBytes = int64_t{512} << 20;
  if (mapped()) return 0.0;
  struct Piece {
    const transport::RemoteRegion* region;
    int64_t offset_bytes;
    int64_t bytes;
  };
  std::vector<Piece> pieces;
  int64_t probe_bytes = 0;
  for (const auto& region : regions_) {
    for (int64_t at = 0;
         at < region->size_bytes() && probe_bytes < kMaxProbeBytes;
         at += kPieceBytes) {
      const int64_t bytes = std::min(kPieceBytes, region->size_bytes() - at);
      pieces.push_back({region.get(), at, bytes});
      probe_bytes += bytes;
    }
  }
  if (probe_bytes < kPieceBytes) return 0.0;
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::Buffer> scratch,
      memory::Buffer::Allocate(memory::MemoryKind::kHost, probe_bytes));
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    std::byte* to = scratch->data();
    int64_t in_flight = 0;
    for (const Piece& piece : pieces) {
      WEFT_RETURN_IF_ERROR(
          peer_->Get(*piece.region, piece.offset_bytes,
                     absl::MakeSpan(to, static_cast<size_t>(piece.bytes)),
                     nullptr, static_cast<transport::OpTag>(in_flight)));
      to += piece.bytes;
      if (++in_flight < kWindow) continue;
      WEFT_RETURN_IF_ERROR(Drain(*peer_, in_flight, deadline));
      in_flight = 0;
    }
    WEFT_RETURN_IF_ERROR(Drain(*peer_, in_flight, deadline));
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    // The first round also touches fresh pages and opens the lane.
    if (repeat > 0) {
      best = std::max(best, static_cast<double>(probe_bytes) / seconds);
    }
  }
  return best;
}

}  // namespace weft::session
