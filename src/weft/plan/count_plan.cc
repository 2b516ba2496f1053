#include "weft/plan/count_plan.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/tensor/conversion.h"

namespace weft::plan {
namespace {

// Returns the bytes of runs below kDirectRunBytes.
int64_t CountMove(const Move& move, PlanTotals& totals) {
  const int64_t item_bytes = tensor::ItemBytes(move.conversion.from);
  int64_t short_run_bytes = 0;
  ++totals.moves;
  totals.runs += static_cast<int64_t>(move.runs.size());
  for (const layout::Run& run : move.runs) {
    const int64_t bytes = run.contiguous_elements() * item_bytes;
    if (totals.shortest_run_bytes == 0 || bytes < totals.shortest_run_bytes) {
      totals.shortest_run_bytes = bytes;
    }
    totals.longest_run_bytes = std::max(totals.longest_run_bytes, bytes);
    if (bytes < kDirectRunBytes) {
      short_run_bytes += run.num_elements() * item_bytes;
    }
  }
  return short_run_bytes;
}

std::vector<ConversionUse> ListConversions(const Plan& plan) {
  std::vector<ConversionUse> uses;
  // Sorted, since the moves of one tensor need not be neighbours.
  using Key = std::tuple<tensor::DType, tensor::DType, tensor::Transform>;
  std::vector<std::pair<Key, const Move*>> moves;
  for (const PeerPlan& peer : plan.peers) {
    for (const Move& move : peer.moves) {
      const tensor::Conversion& conversion = move.conversion;
      if (conversion.identity()) continue;
      moves.push_back(
          {{conversion.from, conversion.to, conversion.transform}, &move});
    }
  }
  std::sort(moves.begin(), moves.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.first, a.second->tensor) <
           std::make_pair(b.first, b.second->tensor);
  });
  int32_t last_tensor = -1;
  for (const auto& [key, move] : moves) {
    if (uses.empty() || !(uses.back().conversion == move->conversion)) {
      uses.push_back({move->conversion, tensor::IsLossy(move->conversion)});
      last_tensor = -1;
    }
    if (move->tensor != last_tensor) ++uses.back().num_tensors;
    last_tensor = move->tensor;
    uses.back().num_elements += move->box.num_elements();
  }
  return uses;
}

// Returns false if the end is beyond 64 bits.
bool PlaceWitness(const Move& move, Witness& witness, int64_t& end) {
  witness.scratch_offset_bytes = base::AlignUp(end, kScratchAlignBytes);
  const std::optional<int64_t> next = base::CheckedAdd(
      witness.scratch_offset_bytes + kScratchAlignBytes,
      witness.box.num_elements() * tensor::ItemBytes(move.conversion.from));
  if (!next.has_value()) return false;
  end = *next - kScratchAlignBytes;
  return true;
}

}  // namespace

absl::Status CountPlan(Plan& plan, int64_t staging_bytes) {
  PlanTotals totals;
  totals.zero_fill_bytes = plan.totals.zero_fill_bytes;
  int64_t short_run_bytes = 0;
  for (PeerPlan& peer : plan.peers) {
    peer.src_bytes = peer.dst_bytes = peer.witness_bytes = 0;
    for (const Move& move : peer.moves) {
      const int64_t elements = move.box.num_elements();
      peer.src_bytes += elements * tensor::ItemBytes(move.conversion.from);
      peer.dst_bytes += elements * tensor::ItemBytes(move.conversion.to);
      short_run_bytes += CountMove(move, totals);
    }
    for (Witness& witness : peer.witnesses) {
      const Move& move = peer.moves[witness.move];
      peer.witness_bytes +=
          witness.box.num_elements() * tensor::ItemBytes(move.conversion.from);
      if (!PlaceWitness(move, witness, totals.scratch_bytes)) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "the witnesses of the plan for target rank ", plan.target_rank,
            " need more scratch than 64 bits can count"));
      }
    }
    // So that the sum does not depend on which witness is the last.
    totals.scratch_bytes =
        base::AlignUp(totals.scratch_bytes, kScratchAlignBytes);
    totals.src_bytes += peer.src_bytes;
    totals.dst_bytes += peer.dst_bytes;
    totals.witness_bytes += peer.witness_bytes;
  }
  totals.peak_staging_bytes = std::min(staging_bytes, short_run_bytes);
  plan.totals = totals;
  plan.conversions = ListConversions(plan);
  return absl::OkStatus();
}

std::vector<Plan> SplitMoves(const Plan& plan, size_t num_parts,
                             absl::FunctionRef<size_t(const Move&)> part_of) {
  std::vector<Plan> parts(num_parts);
  for (Plan& part : parts) {
    part.source_digest = plan.source_digest;
    part.target_digest = plan.target_digest;
    part.target_rank = plan.target_rank;
  }
  parts[0].zero_fills = plan.zero_fills;
  parts[0].totals.zero_fill_bytes = plan.totals.zero_fill_bytes;
  for (const PeerPlan& peer : plan.peers) {
    // Where each move went.
    std::vector<std::pair<PeerPlan*, int32_t>> places;
    for (const Move& move : peer.moves) {
      std::vector<PeerPlan>& peers = parts[part_of(move)].peers;
      if (peers.empty() || peers.back().src_rank != peer.src_rank) {
        peers.emplace_back().src_rank = peer.src_rank;
      }
      PeerPlan& kept = peers.back();
      places.push_back({&kept, static_cast<int32_t>(kept.moves.size())});
      kept.moves.push_back(move);
    }
    for (const Witness& witness : peer.witnesses) {
      const auto& [kept, index] = places[witness.move];
      kept->witnesses.push_back(witness);
      kept->witnesses.back().move = index;
    }
  }
  for (Plan& part : parts) {
    // A part needs no more scratch than the whole, which was counted.
    CountPlan(part, plan.totals.peak_staging_bytes).IgnoreError();
  }
  return parts;
}

}  // namespace weft::plan
