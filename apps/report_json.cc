#include "report_json.h"

#include <fmt/format.h>

#include "absl/strings/str_join.h"
#include "console.h"

namespace weft::apps {
namespace {

double TransferRate(const session::RefitReport& report) {
  return report.transfer_seconds > 0
             ? static_cast<double>(report.wire_bytes) / report.transfer_seconds
             : 0;
}

double RatioToBound(const session::RefitReport& report) {
  return report.bound_bytes_per_second > 0
             ? TransferRate(report) / report.bound_bytes_per_second
             : 0;
}

}  // namespace

nlohmann::json ToJson(const session::PublishReport& report, int64_t rank) {
  return {{"event", "published"},
          {"rank", rank},
          {"version", catalog::ToString(report.version.version)},
          {"state", std::string(catalog::ToString(report.version.state))},
          {"quantise_seconds", report.quantise_seconds},
          {"digest_seconds", report.digest_seconds},
          {"digest_bytes", report.digest_bytes},
          {"control_seconds", report.control_seconds}};
}

nlohmann::json ToJson(const session::RefitReport& report,
                      const plan::Plan& plan, int64_t rank) {
  nlohmann::json json = {
      {"event", "refitted"},
      {"rank", rank},
      {"version", catalog::ToString(report.version)},
      {"bytes", report.bytes},
      {"bytes_resumed", report.bytes_resumed},
      {"wire_bytes", report.wire_bytes},
      {"seconds", report.seconds},
      {"transfer_seconds", report.transfer_seconds},
      {"verify_seconds", report.verify_seconds},
      {"quantise_seconds", report.quantise_seconds},
      {"control_seconds", report.control_seconds},
      {"pause_seconds", report.pause_seconds},
      {"bytes_copied", report.bytes_copied},
      {"unrecorded", report.unrecorded},
      {"bytes_per_second", TransferRate(report)},
      {"bound_bytes_per_second", report.bound_bytes_per_second},
      {"bound", report.bound_name},
      {"ratio", RatioToBound(report)},
      {"coverage", "every destination element written exactly once"},
      {"tiles_checked", report.tiles_checked},
      {"digest", report.digest},
      {"planned", report.planned},
      {"manifests_fetched", report.manifests_fetched},
      {"moves", plan.totals.moves},
      {"runs", plan.totals.runs},
      {"zero_fill_bytes", plan.totals.zero_fill_bytes},
      {"witness_bytes", plan.totals.witness_bytes},
      {"staging_peak_bytes", report.execute.peak_staging_bytes}};
  json["conversions"] = nlohmann::json::array();
  for (const plan::ConversionUse& use : plan.conversions) {
    json["conversions"].push_back(
        {{"conversion", tensor::ToString(use.conversion)},
         {"lossy", use.lossy},
         {"tensors", use.num_tensors},
         {"elements", use.num_elements}});
  }
  json["peers"] = nlohmann::json::array();
  for (const session::PeerReport& peer : report.peers) {
    json["peers"].push_back({{"rank", peer.rank},
                             {"name", peer.name},
                             {"transport", peer.transport},
                             {"mapped", peer.mapped},
                             {"bytes", peer.bytes},
                             {"detour", peer.detour}});
  }
  json["replaced"] = nlohmann::json::array();
  for (const session::ReplacedSource& lost : report.replaced) {
    json["replaced"].push_back(
        {{"source", lost.source}, {"why", lost.why}, {"by", lost.by}});
  }
  json["not_taken"] = report.not_taken;
  json["serving"] = report.serving;
  json["not_served"] = report.not_served;
  json["serve_seconds"] = report.serve_seconds;
  return json;
}

nlohmann::json ToJson(const session::RollbackReport& report, int64_t rank) {
  return {{"event", "rolled back"},
          {"rank", rank},
          {"version", catalog::ToString(report.version)},
          {"seconds", report.seconds},
          {"pause_seconds", report.pause_seconds},
          {"bytes_copied", report.bytes_copied},
          {"unrecorded", report.unrecorded}};
}

std::string FormatReport(const session::RefitReport& report,
                         const plan::Plan& plan) {
  std::string text =
      fmt::format("refit to {}{}\n", catalog::ToString(report.version),
                  report.planned ? " (planned now)" : " (plan reused)");
  text += fmt::format(
      "  plan      {} moves, {} runs from {} peers, {} zero-filled; coverage: "
      "every element written exactly once\n",
      plan.totals.moves, plan.totals.runs, plan.peers.size(),
      HumanBytes(plan.totals.zero_fill_bytes));
  for (const plan::ConversionUse& use : plan.conversions) {
    text += fmt::format("  convert   {} in {} tensors, lossy: {}\n",
                        tensor::ToString(use.conversion), use.num_tensors,
                        use.lossy ? "yes" : "no");
  }
  text += fmt::format("  moved     {} in {}: {}", HumanBytes(report.bytes),
                      HumanSeconds(report.transfer_seconds),
                      HumanRate(TransferRate(report)));
  if (report.bytes_resumed > 0) {
    text += fmt::format(", {} lay in place", HumanBytes(report.bytes_resumed));
  }
  if (report.bound_bytes_per_second > 0) {
    text += fmt::format("; bound {} ({}), ratio {:.2f}",
                        HumanRate(report.bound_bytes_per_second),
                        report.bound_name, RatioToBound(report));
  }
  text += "\n";
  if (report.tiles_checked > 0) {
    text += fmt::format("  verified  {} tiles in {}, digest {}\n",
                        report.tiles_checked,
                        HumanSeconds(report.verify_seconds), report.digest);
  }
  text +=
      fmt::format("  total     {} (control {})\n", HumanSeconds(report.seconds),
                  HumanSeconds(report.control_seconds));
  if (report.pause_seconds > 0) {
    text += fmt::format("  paused    {}, {} copied\n",
                        HumanSeconds(report.pause_seconds),
                        HumanBytes(report.bytes_copied));
  }
  if (!report.unrecorded.empty()) {
    text += fmt::format("  not told  {}\n", report.unrecorded);
  }
  for (const session::PeerReport& peer : report.peers) {
    text += fmt::format("  peer      {}: {} by {}{}\n", peer.name,
                        HumanBytes(peer.bytes), peer.transport,
                        peer.mapped ? " (mapped)" : " (posted)");
    if (!peer.detour.empty()) {
      text += fmt::format("  detour    {}\n", peer.detour);
    }
  }
  for (const session::ReplacedSource& lost : report.replaced) {
    text += fmt::format("  replaced  {} by {}: {}\n", lost.source,
                        absl::StrJoin(lost.by, ", "), lost.why);
  }
  if (!report.not_taken.empty()) {
    text += fmt::format("  not taken {}\n", report.not_taken);
  }
  if (report.serving) {
    text += fmt::format("  serving   it to others, since {} after the commit\n",
                        HumanSeconds(report.serve_seconds));
  } else if (!report.not_served.empty()) {
    text += fmt::format("  serving   nobody: {}\n", report.not_served);
  }
  return text;
}

}  // namespace weft::apps
