#include "tensor_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "console.h"
#include "fleet_report.h"
#include "text_file.h"
#include "weft/base/status.h"
#include "weft/plan/explain_tensor.h"

namespace weft::apps {
namespace {

// File and line of the rule; "" for a stage, which no rule makes.
std::string OriginOf(const std::vector<std::vector<std::string_view>>& origins,
                     int64_t rank, int32_t stored) {
  const std::vector<std::string_view>& of_rank = origins[rank];
  const auto s = static_cast<size_t>(stored);
  if (s >= of_rank.size()) return "";
  // "file:line: key", of which the key says nothing here.
  return std::string(of_rank[s].substr(0, of_rank[s].rfind(": ")));
}

std::string RuleOf(const PlanJob& job, const plan::TensorPart& part) {
  const std::string dst =
      OriginOf(job.target_origins, part.dst_rank, part.dst_index);
  if (part.src_rank < 0) return dst;
  const std::string src =
      OriginOf(job.source_origins, part.src_rank, part.src_index);
  return dst.empty() && src.empty() ? "" : absl::StrCat(dst, " <- ", src);
}

std::string ConversionText(const tensor::Conversion& conversion) {
  if (conversion.identity()) return "none";
  return absl::StrCat(tensor::ToString(conversion),
                      tensor::IsLossy(conversion) ? ", lossy" : ", exact");
}

std::string FormatParts(const PlanJob& job,
                        const std::vector<plan::TensorPart>& parts) {
  std::vector<std::string> header = {
      "ENGINE RANK", "STORED", "TENSOR", "BOX",       "FROM RANK",
      "ITS STORED",  "BYTES",  "RUNS",   "PIECES OF", "CONVERSION"};
  std::vector<std::vector<std::string>> rows;
  bool any_rule = false;
  for (const plan::TensorPart& part : parts) {
    const bool zeros = part.src_rank < 0;
    rows.push_back(
        {absl::StrCat(part.dst_rank), part.dst_stored,
         zeros ? "padding" : part.logical, part.box.ToString(),
         zeros ? "zeros" : absl::StrCat(part.src_rank), part.src_stored,
         HumanBytes(part.bytes), zeros ? "" : absl::StrCat(part.num_runs),
         zeros ? "" : HumanBytes(part.contiguous_bytes),
         zeros ? "" : ConversionText(part.conversion), RuleOf(job, part)});
    any_rule = any_rule || !rows.back().back().empty();
  }
  if (any_rule) {
    header.push_back("RULES");
  } else {
    for (std::vector<std::string>& row : rows) row.pop_back();
  }
  return FormatTable(header, rows);
}

std::string PartsJson(const PlanJob& job,
                      const std::vector<plan::TensorPart>& parts) {
  nlohmann::json list = nlohmann::json::array();
  for (const plan::TensorPart& part : parts) {
    nlohmann::json box = nlohmann::json::array();
    for (const tensor::Range& range : part.box.ranges()) {
      box.push_back({range.begin, range.end});
    }
    nlohmann::json each = {{"engine_rank", part.dst_rank},
                           {"stored", part.dst_stored},
                           {"box", std::move(box)},
                           {"bytes", part.bytes},
                           {"zeros", part.src_rank < 0}};
    const std::string rule =
        OriginOf(job.target_origins, part.dst_rank, part.dst_index);
    if (!rule.empty()) each["rule"] = rule;
    if (part.src_rank >= 0) {
      each["tensor"] = part.logical;
      each["source_rank"] = part.src_rank;
      each["source_stored"] = part.src_stored;
      each["runs"] = part.num_runs;
      each["shortest_run_bytes"] = part.contiguous_bytes;
      each["conversion"] = tensor::ToString(part.conversion);
      each["lossy"] = tensor::IsLossy(part.conversion);
      const std::string source_rule =
          OriginOf(job.source_origins, part.src_rank, part.src_index);
      if (!source_rule.empty()) each["source_rule"] = source_rule;
    }
    list.push_back(std::move(each));
  }
  return nlohmann::json{{"parts", std::move(list)}}.dump();
}

}  // namespace

absl::StatusOr<std::string> DescribeTensor(
    const PlanJob& job, const std::vector<plan::CompactPlan>& plans,
    const std::string& name, const std::string& svg_path, bool json) {
  WEFT_ASSIGN_OR_RETURN(
      const std::vector<plan::TensorPart> parts,
      plan::ExplainTensor(plans, job.targets, *job.index, name));
  if (!svg_path.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        const std::string svg,
        plan::DrawTensor(parts, job.targets, *job.index, name));
    WEFT_RETURN_IF_ERROR(WriteText(svg_path, svg));
  }
  return json ? PartsJson(job, parts) : FormatParts(job, parts);
}

}  // namespace weft::apps
