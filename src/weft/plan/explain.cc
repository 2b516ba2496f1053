#include "weft/plan/explain.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "weft/plan/plan_facts.h"

namespace weft::plan {
namespace {

// "512 B", "1.50 GiB".
std::string BytesText(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  if (unit == 0) return absl::StrCat(bytes, " B");
  return absl::StrFormat("%.2f %s", value, kUnits[unit]);
}

std::string PercentText(double share) {
  return absl::StrFormat("%.1f %%", share * 100);
}

double ShareOf(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// Columns padded to their widest cell; the last column is text and aligned to
// the left, the others to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) {
    rows_.push_back(std::move(header));
  }
  void AddRow(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  void AppendTo(std::string& text) const {
    std::vector<size_t> widths(rows_[0].size(), 0);
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); ++i) {
        widths[i] = std::max(widths[i], row[i].size());
      }
    }
    for (const auto& row : rows_) {
      absl::StrAppend(&text, " ");
      for (size_t i = 0; i < row.size(); ++i) {
        const bool is_last = i + 1 == row.size();
        const size_t pad = is_last ? 0 : widths[i] - row[i].size();
        absl::StrAppend(&text, " ", std::string(pad, ' '), row[i],
                        is_last ? "" : " ");
      }
      absl::StrAppend(&text, "\n");
    }
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

void AppendHeader(const Plan& plan, const PlanFacts& facts, std::string& text) {
  const PlanTotals& totals = plan.totals;
  absl::StrAppend(&text, "plan for target rank ", plan.target_rank, ": ",
                  plan.peers.size(), " source ranks, ", totals.moves,
                  " moves, ", totals.runs, " runs\n");
  absl::StrAppend(&text, "  from    \"", facts.source_layout, "\", ",
                  facts.sources_present, " of ", facts.sources_expected,
                  " ranks, layout ", plan.source_digest.ToHex().substr(0, 12),
                  "\n");
  absl::StrAppend(&text, "  to      \"", facts.target_layout, "\", layout ",
                  plan.target_digest.ToHex().substr(0, 12), "\n");
  absl::StrAppend(&text, "  reads   ", BytesText(totals.src_bytes), " and ",
                  BytesText(totals.witness_bytes),
                  " more to complete digest tiles\n");
  absl::StrAppend(&text, "  writes  ", BytesText(totals.dst_bytes), " and ",
                  BytesText(totals.zero_fill_bytes), " of zeros\n");
  absl::StrAppend(&text, "  memory  ", BytesText(totals.peak_staging_bytes),
                  " of staging at most, ", BytesText(totals.scratch_bytes),
                  " of scratch\n");
}

void AppendPeers(const PlanFacts& facts, std::string& text) {
  absl::StrAppend(&text, "\nbytes by source rank\n");
  Table table({"rank", "bytes", "share", "moves", "runs", "distance"});
  for (const PeerFacts& peer : facts.peers) {
    table.AddRow({absl::StrCat(peer.rank), BytesText(peer.src_bytes),
                  PercentText(peer.share), absl::StrCat(peer.moves),
                  absl::StrCat(peer.runs),
                  peer.distance == 0
                      ? std::string("same host")
                      : absl::StrCat("distance ", peer.distance)});
  }
  table.AppendTo(text);
}

void AppendRunLengths(const Plan& plan, const PlanFacts& facts,
                      std::string& text) {
  absl::StrAppend(&text, "\ncontiguous bytes of the runs, on both sides\n");
  Table table({"runs", "pieces", "bytes", "share", "length"});
  for (const RunBucket& bucket : facts.run_lengths) {
    if (bucket.runs == 0) continue;
    table.AddRow({absl::StrCat(bucket.runs), absl::StrCat(bucket.pieces),
                  BytesText(bucket.src_bytes),
                  PercentText(ShareOf(bucket.src_bytes, plan.totals.src_bytes)),
                  bucket.end_bytes == 0
                      ? absl::StrCat(BytesText(bucket.min_bytes), " and more")
                      : absl::StrCat(BytesText(bucket.min_bytes), " to ",
                                     BytesText(bucket.end_bytes))});
  }
  table.AppendTo(text);
  absl::StrAppend(&text, "shortest ", BytesText(plan.totals.shortest_run_bytes),
                  ", longest ", BytesText(plan.totals.longest_run_bytes), "\n");
  absl::StrAppend(
      &text, "mapped access: direct, whatever the length of a run\n",
      "posted access: ", BytesText(facts.direct_bytes),
      " direct (runs of at least ", BytesText(kDirectRunBytes), "), ",
      BytesText(facts.staged_bytes), " staged (shorter runs)\n");
}

void AppendTensors(const PlanFacts& facts, int max_tensors, std::string& text) {
  const size_t count = facts.tensors.size();
  const size_t shown = max_tensors > 0
                           ? std::min(count, static_cast<size_t>(max_tensors))
                           : count;
  absl::StrAppend(&text, "\ntensors, largest first\n");
  Table table({"bytes", "moves", "runs", "sources", "shortest", "tensor"});
  for (size_t i = 0; i < shown; ++i) {
    const TensorFacts& tensor = facts.tensors[i];
    table.AddRow({BytesText(tensor.src_bytes), absl::StrCat(tensor.moves),
                  absl::StrCat(tensor.runs), absl::StrCat(tensor.sources),
                  BytesText(tensor.shortest_run_bytes), tensor.name});
  }
  table.AppendTo(text);
  if (shown < count) {
    absl::StrAppend(&text, "  and ", count - shown, " more tensors\n");
  }
}

void AppendConversions(const Plan& plan, std::string& text) {
  if (plan.conversions.empty()) {
    absl::StrAppend(&text, "\nconversions: none\n");
    return;
  }
  absl::StrAppend(&text, "\nconversions\n");
  for (const ConversionUse& use : plan.conversions) {
    absl::StrAppend(&text, "  ", tensor::ToString(use.conversion),
                    "  lossy: ", use.lossy ? "yes" : "no", "  ",
                    use.num_tensors, " tensors, ", use.num_elements,
                    " elements\n");
  }
}

void AppendZeroFills(const PlanFacts& facts, std::string& text) {
  if (facts.zero_fills.empty()) {
    absl::StrAppend(&text, "zero fills: none\n");
    return;
  }
  absl::StrAppend(&text, "zero fills\n");
  Table table({"bytes", "boxes", "stored tensor"});
  for (const ZeroFillFacts& fill : facts.zero_fills) {
    table.AddRow(
        {BytesText(fill.bytes), absl::StrCat(fill.boxes), fill.stored});
  }
  table.AppendTo(text);
}

void AppendVerdict(const PlanFacts& facts, const ExplainOptions& options,
                   std::string& text) {
  if (facts.coverage.ok()) {
    absl::StrAppend(&text, "coverage: every one of ", facts.dst_elements,
                    " elements written exactly once (checked)\n");
  } else {
    absl::StrAppend(&text, "coverage: FAILED: ", facts.coverage.message(),
                    "\n");
  }
  if (options.file_bytes > 0) {
    absl::StrAppend(&text, "as a file: ", BytesText(options.file_bytes), "\n");
  }
  if (options.link_bytes_per_second <= 0) return;
  absl::StrAppendFormat(
      &text, "bound: %.4f s (every byte read, at %.2f GB/s)\n",
      facts.bound_seconds, options.link_bytes_per_second / 1e9);
  absl::StrAppendFormat(&text, "expected: %.4f s (the bound at %.0f %%)\n",
                        facts.expected_seconds, kExpectedEfficiency * 100);
}

}  // namespace

std::string ExplainPlan(const Plan& plan, const SourceIndex& sources,
                        const manifest::Placement& target,
                        const ExplainOptions& options) {
  const PlanFacts facts = GatherFacts(plan, sources, target, options);
  std::string text;
  AppendHeader(plan, facts, text);
  AppendPeers(facts, text);
  AppendRunLengths(plan, facts, text);
  AppendTensors(facts, options.max_tensors, text);
  AppendConversions(plan, text);
  AppendZeroFills(facts, text);
  AppendVerdict(facts, options, text);
  return text;
}

}  // namespace weft::plan
