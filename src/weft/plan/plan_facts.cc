#include "weft/plan/plan_facts.h"

#include <algorithm>
#include <utility>

#include "weft/plan/source_table.h"

namespace weft::plan {
namespace {

using layout::Run;

std::vector<RunBucket> EmptyBuckets() {
  const std::vector<int64_t> edges = {
      1, 256, 4 << 10, kDirectRunBytes, 1 << 20, 16 << 20};
  std::vector<RunBucket> buckets;
  for (size_t i = 0; i < edges.size(); ++i) {
    buckets.push_back(
        {.min_bytes = edges[i],
         .end_bytes = i + 1 < edges.size() ? edges[i + 1] : int64_t{0}});
  }
  return buckets;
}

// Adds one run to everything that counts runs.
void CountRun(const Run& run, int64_t item_bytes, PlanFacts& facts,
              TensorFacts& tensor) {
  const int64_t bytes = run.num_elements() * item_bytes;
  const int64_t contiguous = run.contiguous_elements() * item_bytes;
  (contiguous < kDirectRunBytes ? facts.staged_bytes : facts.direct_bytes) +=
      bytes;
  ++tensor.runs;
  if (tensor.shortest_run_bytes == 0 ||
      contiguous < tensor.shortest_run_bytes) {
    tensor.shortest_run_bytes = contiguous;
  }
  for (RunBucket& bucket : facts.run_lengths) {
    if (bucket.end_bytes != 0 && contiguous >= bucket.end_bytes) continue;
    ++bucket.runs;
    bucket.pieces += bytes / contiguous;
    bucket.src_bytes += bytes;
    break;
  }
}

void GatherMoves(const Plan& plan, const SourceTable& sources,
                 const manifest::Placement& target, PlanFacts& facts) {
  std::vector<TensorFacts> tensors(target.tensors.size());
  std::vector<int64_t> last_rank(tensors.size(), -1);
  for (const PeerPlan& peer : plan.peers) {
    PeerFacts each;
    each.rank = peer.src_rank;
    const int32_t source = sources.SourceOfRank(peer.src_rank);
    if (source >= 0) each.distance = sources.sources()[source].distance;
    each.moves = static_cast<int64_t>(peer.moves.size());
    each.src_bytes = peer.src_bytes;
    each.witness_bytes = peer.witness_bytes;
    if (plan.totals.src_bytes > 0) {
      each.share = static_cast<double>(peer.src_bytes) /
                   static_cast<double>(plan.totals.src_bytes);
    }
    for (const Move& move : peer.moves) {
      TensorFacts& tensor = tensors[move.tensor];
      const int64_t item_bytes = tensor::ItemBytes(move.conversion.from);
      ++tensor.moves;
      tensor.src_bytes += move.box.num_elements() * item_bytes;
      if (last_rank[move.tensor] != peer.src_rank) ++tensor.sources;
      last_rank[move.tensor] = peer.src_rank;
      facts.dst_elements += move.box.num_elements();
      each.runs += static_cast<int64_t>(move.runs.size());
      for (const Run& run : move.runs) {
        CountRun(run, item_bytes, facts, tensor);
      }
    }
    facts.peers.push_back(each);
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].moves == 0) continue;
    tensors[i].name = target.tensors[i].name;
    facts.tensors.push_back(std::move(tensors[i]));
  }
  std::sort(facts.tensors.begin(), facts.tensors.end(),
            [](const TensorFacts& a, const TensorFacts& b) {
              return a.src_bytes != b.src_bytes ? a.src_bytes > b.src_bytes
                                                : a.name < b.name;
            });
}

void GatherZeroFills(const Plan& plan, const manifest::Placement& target,
                     PlanFacts& facts) {
  for (const ZeroFill& fill : plan.zero_fills) {
    const layout::StoredTensor& stored = target.stored[fill.dst_stored];
    if (facts.zero_fills.empty() ||
        facts.zero_fills.back().stored != stored.name) {
      facts.zero_fills.push_back({stored.name, 0, 0});
    }
    ++facts.zero_fills.back().boxes;
    facts.zero_fills.back().bytes +=
        fill.box.num_elements() * tensor::ItemBytes(stored.dtype);
    facts.dst_elements += fill.box.num_elements();
  }
}

}  // namespace

PlanFacts GatherFacts(const Plan& plan, const SourceIndex& sources,
                      const manifest::Placement& target,
                      const ExplainOptions& options) {
  PlanFacts facts;
  const manifest::Placement& first = *sources.sources()[0].placement;
  facts.source_layout = first.layout_spec;
  facts.sources_present = static_cast<int64_t>(sources.sources().size());
  facts.sources_expected = first.num_ranks;
  facts.target_layout = target.layout_spec;
  facts.run_lengths = EmptyBuckets();
  GatherMoves(plan, SourceTable::Of(sources), target, facts);
  GatherZeroFills(plan, target, facts);
  facts.coverage = CheckCoverage(plan, sources, target);
  if (options.link_bytes_per_second > 0) {
    facts.bound_seconds =
        static_cast<double>(plan.totals.src_bytes + plan.totals.witness_bytes) /
        options.link_bytes_per_second;
    facts.expected_seconds = facts.bound_seconds / kExpectedEfficiency;
  }
  return facts;
}

}  // namespace weft::plan
