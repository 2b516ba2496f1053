#include <string>

#include "nlohmann/json.hpp"
#include "weft/plan/explain.h"
#include "weft/plan/plan_facts.h"

namespace weft::plan {
namespace {

using Json = nlohmann::ordered_json;

Json TotalsJson(const PlanTotals& totals) {
  return {{"moves", totals.moves},
          {"runs", totals.runs},
          {"src_bytes", totals.src_bytes},
          {"dst_bytes", totals.dst_bytes},
          {"witness_bytes", totals.witness_bytes},
          {"zero_fill_bytes", totals.zero_fill_bytes},
          {"scratch_bytes", totals.scratch_bytes},
          {"shortest_run_bytes", totals.shortest_run_bytes},
          {"longest_run_bytes", totals.longest_run_bytes},
          {"peak_staging_bytes", totals.peak_staging_bytes}};
}

Json PeersJson(const PlanFacts& facts) {
  Json list = Json::array();
  for (const PeerFacts& peer : facts.peers) {
    list.push_back({{"rank", peer.rank},
                    {"distance", peer.distance},
                    {"moves", peer.moves},
                    {"runs", peer.runs},
                    {"src_bytes", peer.src_bytes},
                    {"witness_bytes", peer.witness_bytes},
                    {"share", peer.share}});
  }
  return list;
}

Json RunLengthsJson(const PlanFacts& facts) {
  Json list = Json::array();
  for (const RunBucket& bucket : facts.run_lengths) {
    Json each = {{"min_bytes", bucket.min_bytes},
                 {"end_bytes", nullptr},
                 {"runs", bucket.runs},
                 {"pieces", bucket.pieces},
                 {"src_bytes", bucket.src_bytes}};
    if (bucket.end_bytes != 0) each["end_bytes"] = bucket.end_bytes;
    list.push_back(std::move(each));
  }
  return list;
}

Json TensorsJson(const PlanFacts& facts, int max_tensors) {
  Json list = Json::array();
  for (const TensorFacts& tensor : facts.tensors) {
    if (max_tensors > 0 && list.size() >= static_cast<size_t>(max_tensors)) {
      break;
    }
    list.push_back({{"name", tensor.name},
                    {"sources", tensor.sources},
                    {"moves", tensor.moves},
                    {"runs", tensor.runs},
                    {"src_bytes", tensor.src_bytes},
                    {"shortest_run_bytes", tensor.shortest_run_bytes}});
  }
  return list;
}

Json ConversionsJson(const Plan& plan) {
  Json list = Json::array();
  for (const ConversionUse& use : plan.conversions) {
    list.push_back(
        {{"from", std::string(tensor::DTypeName(use.conversion.from))},
         {"to", std::string(tensor::DTypeName(use.conversion.to))},
         {"lossy", use.lossy},
         {"tensors", use.num_tensors},
         {"elements", use.num_elements}});
  }
  return list;
}

Json ZeroFillsJson(const PlanFacts& facts) {
  Json list = Json::array();
  for (const ZeroFillFacts& fill : facts.zero_fills) {
    list.push_back({{"stored", fill.stored},
                    {"boxes", fill.boxes},
                    {"bytes", fill.bytes}});
  }
  return list;
}

Json CoverageJson(const PlanFacts& facts) {
  Json coverage = {{"checked", true},
                   {"ok", facts.coverage.ok()},
                   {"elements", facts.dst_elements},
                   {"faults", nullptr}};
  if (!facts.coverage.ok()) {
    coverage["faults"] = std::string(facts.coverage.message());
  }
  return coverage;
}

Json TimeJson(const PlanFacts& facts, const ExplainOptions& options) {
  if (options.link_bytes_per_second <= 0) return nullptr;
  return {{"link_bytes_per_second", options.link_bytes_per_second},
          {"bound_seconds", facts.bound_seconds},
          {"expected_seconds", facts.expected_seconds}};
}

}  // namespace

std::string ExplainPlanJson(const Plan& plan, const SourceIndex& sources,
                            const manifest::Placement& target,
                            const ExplainOptions& options) {
  const PlanFacts facts = GatherFacts(plan, sources, target, options);
  const Json json = {
      {"format", 1},
      {"target_rank", plan.target_rank},
      {"source",
       {{"layout", facts.source_layout},
        {"digest", plan.source_digest.ToHex()},
        {"ranks_present", facts.sources_present},
        {"ranks_expected", facts.sources_expected}}},
      {"target",
       {{"layout", facts.target_layout},
        {"digest", plan.target_digest.ToHex()}}},
      {"totals", TotalsJson(plan.totals)},
      {"peers", PeersJson(facts)},
      {"run_lengths", RunLengthsJson(facts)},
      {"posted",
       {{"direct_bytes", facts.direct_bytes},
        {"staged_bytes", facts.staged_bytes},
        {"direct_run_bytes", kDirectRunBytes}}},
      {"num_tensors", facts.tensors.size()},
      {"tensors", TensorsJson(facts, options.max_tensors)},
      {"conversions", ConversionsJson(plan)},
      {"zero_fills", ZeroFillsJson(facts)},
      {"coverage", CoverageJson(facts)},
      {"time", TimeJson(facts, options)},
      {"file_bytes",
       options.file_bytes > 0 ? Json(options.file_bytes) : Json(nullptr)},
  };
  // A name that is no UTF-8 is printed with replacement characters; throwing
  // is the library's other choice.
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace weft::plan
