#include "fleet_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "console.h"
#include "weft/base/checked.h"
#include "weft/plan/explain_tensor.h"

namespace weft::apps {
namespace {

constexpr int64_t kMaxCells = 128;  // along one side
constexpr int kMapPixels = 640;
// Of the map's first cell, with room for the names of ranks.
constexpr int kLeft = 84;
constexpr int kTop = 40;
constexpr int64_t kTicks = 8;
constexpr size_t kMaxBars = 40;
constexpr int kBarPixels = 480;

// Ranks 0 ... count - 1 in at most kMaxCells groups of `size` neighbours.
struct Groups {
  explicit Groups(int64_t count)
      : size(std::max<int64_t>(1, base::CeilDiv(count, kMaxCells))),
        num(base::CeilDiv(count, size)) {}
  std::string Name(int64_t group, int64_t count) const {
    const int64_t first = group * size;
    const int64_t last = std::min(count, first + size) - 1;
    return first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
  }
  int64_t size;
  int64_t num;
};

// Bytes by (engine group, trainer group).
std::vector<std::vector<int64_t>> BytesOf(const FleetResult& result,
                                          const Groups& trainers,
                                          const Groups& engines) {
  std::vector<std::vector<int64_t>> bytes(
      static_cast<size_t>(engines.num),
      std::vector<int64_t>(static_cast<size_t>(trainers.num)));
  for (const plan::CompactPlan& each : result.plans) {
    for (const plan::PeerTraffic& peer : each.peers) {
      bytes[each.target_rank / engines.size][peer.src_rank / trainers.size] +=
          peer.src_bytes;
    }
  }
  return bytes;
}

// The ranks of some cells, beside the map.
void AppendTicks(const Groups& groups, int64_t count, double cell, bool along_x,
                 std::string& svg) {
  const int64_t step = std::max<int64_t>(1, base::CeilDiv(groups.num, kTicks));
  for (int64_t group = 0; group < groups.num; group += step) {
    const double at = cell * (static_cast<double>(group) + 0.5);
    absl::StrAppend(
        &svg,
        fmt::format("<text x='{:.2f}' y='{:.2f}' text-anchor='{}'>{}</text>\n",
                    along_x ? kLeft + at : kLeft - 6.0,
                    along_x ? kTop - 6.0 : kTop + at + 4,
                    along_x ? "middle" : "end", groups.Name(group, count)));
  }
}

std::string HeatMap(const PlanJob& job, const FleetResult& result) {
  const auto num_trainers = static_cast<int64_t>(job.sources.size());
  const auto num_engines = static_cast<int64_t>(job.targets.size());
  const Groups trainers(num_trainers);
  const Groups engines(num_engines);
  const auto bytes = BytesOf(result, trainers, engines);
  int64_t most = 1;
  for (const auto& row : bytes) {
    most = std::max(most, *std::max_element(row.begin(), row.end()));
  }
  const double cell =
      static_cast<double>(kMapPixels) /
      static_cast<double>(std::max({trainers.num, engines.num, int64_t{8}}));
  const double width = cell * static_cast<double>(trainers.num);
  const double height = cell * static_cast<double>(engines.num);
  std::string svg = fmt::format(
      "<svg width='{:.0f}' height='{:.0f}' font-size='12'>\n"
      "<text x='{}' y='14'>trainer ranks</text>\n"
      "<text x='14' y='{}' transform='rotate(90 14 {})'>engine ranks</text>\n",
      kLeft + width + 20, kTop + height + 20, kLeft, kTop, kTop);
  AppendTicks(trainers, num_trainers, cell, /*along_x=*/true, svg);
  AppendTicks(engines, num_engines, cell, /*along_x=*/false, svg);
  for (size_t e = 0; e < bytes.size(); ++e) {
    for (size_t t = 0; t < bytes[e].size(); ++t) {
      const double share =
          static_cast<double>(bytes[e][t]) / static_cast<double>(most);
      absl::StrAppend(
          &svg,
          fmt::format(
              "<rect x='{:.2f}' y='{:.2f}' width='{:.2f}' height='{:.2f}' "
              "fill='{}'><title>trainer {} to engine {}: {}</title></rect>\n",
              kLeft + cell * static_cast<double>(t),
              kTop + cell * static_cast<double>(e), cell, cell,
              bytes[e][t] == 0
                  ? "#f4f4f4"
                  : fmt::format("hsl(215,70%,{:.0f}%)", 88 - 60 * share),
              trainers.Name(static_cast<int64_t>(t), num_trainers),
              engines.Name(static_cast<int64_t>(e), num_engines),
              HumanBytes(bytes[e][t])));
    }
  }
  return absl::StrCat(svg, "</svg>\n<p>Darkest: ", HumanBytes(most), " from ",
                      trainers.size == 1 && engines.size == 1
                          ? "one rank to one rank"
                          : absl::StrCat(trainers.size, " trainer ranks to ",
                                         engines.size, " engine ranks"),
                      "; the paler the less. Grey: nothing.</p>\n");
}

// Ports of one kind and direction that are busy for the same time, as printed.
struct PortGroup {
  const plan::SimulatedPort* first = nullptr;
  size_t num_ports = 0;
  std::set<int64_t> ranks;

  std::string Name() const {
    if (num_ports == 1) return first->ToString();
    return absl::StrCat(
        num_ports,
        first->kind == plan::PortKind::kNic ? " nics of " : " nvlinks of ",
        first->is_trainer ? "trainer" : "engine", " ranks ", RanksText(ranks),
        first->is_trainer ? ", sending" : ", receiving");
  }
};

std::string Ports(const plan::RefitSimulation& simulation) {
  using Key = std::tuple<std::string, plan::PortKind, bool>;
  std::map<Key, PortGroup> groups;
  for (const plan::SimulatedPort& port : simulation.ports) {
    PortGroup& group = groups[Key(HumanSeconds(port.busy_seconds), port.kind,
                                  port.is_trainer)];
    if (group.first == nullptr) group.first = &port;
    ++group.num_ports;
    group.ranks.insert(port.ranks.begin(), port.ranks.end());
  }
  std::vector<const PortGroup*> sorted;
  for (const auto& [key, group] : groups) sorted.push_back(&group);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const PortGroup* a, const PortGroup* b) {
                     return a->first->busy_seconds > b->first->busy_seconds;
                   });
  std::string html =
      absl::StrCat("<h2>Busiest ports of the simulated refit (",
                   HumanSeconds(simulation.seconds), ")</h2>\n<table>\n");
  for (size_t p = 0; p < std::min(sorted.size(), kMaxBars); ++p) {
    absl::StrAppend(&html,
                    fmt::format("<tr><td>{}</td><td>{}</td><td><div "
                                "style='width:{:.0f}px'></div></td></tr>\n",
                                plan::EscapedForMarkup(sorted[p]->Name()),
                                HumanSeconds(sorted[p]->first->busy_seconds),
                                kBarPixels * sorted[p]->first->busy_seconds /
                                    simulation.seconds));
  }
  absl::StrAppend(&html, "</table>\n");
  if (sorted.size() > kMaxBars) {
    absl::StrAppend(&html, "<p>and ", sorted.size() - kMaxBars,
                    " groups of ports that are less busy</p>\n");
  }
  return html;
}

}  // namespace

std::string FleetHtml(const PlanJob& job, const FleetResult& result) {
  const std::string title = plan::EscapedForMarkup(
      absl::StrCat(job.model_name, ": ", job.from_text, " to ", job.to_text));
  std::string html = absl::StrCat(
      "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n<title>",
      title,
      "</title>\n<style>body{font-family:sans-serif;margin:2em}"
      "pre{background:#f6f6f6;padding:1em;overflow:auto;max-height:24em}"
      "rect{stroke:#fff;stroke-width:.4}td{padding:1px 8px}"
      "td{white-space:nowrap}td "
      "div{background:#3b6fb6;height:10px}</style></head><body>\n<h1>",
      title, "</h1>\n<pre>", plan::EscapedForMarkup(FormatFleet(job, result)),
      "</pre>\n<h2>Bytes from trainer to engine</h2>\n", HeatMap(job, result));
  if (result.simulation.has_value() && result.simulation->seconds > 0) {
    absl::StrAppend(&html, Ports(*result.simulation));
  }
  absl::StrAppend(&html, "</body></html>\n");
  return html;
}

}  // namespace weft::apps
