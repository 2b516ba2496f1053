#include "fleet_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "console.h"
#include "weft/base/checked.h"
#include "weft/plan/explain_tensor.h"

namespace weft::apps {
namespace {

constexpr int64_t kMaxCells = 128;  // along one side
constexpr int kMapPixels = 640;
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
  for (const plan::Plan& each : result.plans) {
    for (const plan::PeerPlan& peer : each.peers) {
      bytes[each.target_rank / engines.size][peer.src_rank / trainers.size] +=
          peer.src_bytes;
    }
  }
  return bytes;
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
      "<text x='40' y='14'>trainer ranks 0 to {}</text>\n"
      "<text x='14' y='40' transform='rotate(90 14 40)'>engine ranks 0 to "
      "{}</text>\n",
      width + 60, height + 40, num_trainers - 1, num_engines - 1);
  for (size_t e = 0; e < bytes.size(); ++e) {
    for (size_t t = 0; t < bytes[e].size(); ++t) {
      const double share =
          static_cast<double>(bytes[e][t]) / static_cast<double>(most);
      absl::StrAppend(
          &svg,
          fmt::format(
              "<rect x='{:.2f}' y='{:.2f}' width='{:.2f}' height='{:.2f}' "
              "fill='{}'><title>trainer {} to engine {}: {}</title></rect>\n",
              40 + cell * static_cast<double>(t),
              22 + cell * static_cast<double>(e), cell, cell,
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
                      ". Grey: nothing.</p>\n");
}

std::string Ports(const plan::RefitSimulation& simulation) {
  std::vector<const plan::SimulatedPort*> ports;
  for (const plan::SimulatedPort& port : simulation.ports) {
    ports.push_back(&port);
  }
  std::stable_sort(ports.begin(), ports.end(),
                   [](const auto* a, const auto* b) {
                     return a->busy_seconds > b->busy_seconds;
                   });
  std::string html =
      absl::StrCat("<h2>Busiest ports of the simulated refit (",
                   HumanSeconds(simulation.seconds), ")</h2>\n<table>\n");
  for (size_t p = 0; p < std::min(ports.size(), kMaxBars); ++p) {
    absl::StrAppend(
        &html,
        fmt::format("<tr><td>{}</td><td>{}</td><td><div style='width:{:.0f}px'>"
                    "</div></td></tr>\n",
                    plan::EscapedForMarkup(ports[p]->ToString()),
                    HumanSeconds(ports[p]->busy_seconds),
                    kBarPixels * ports[p]->busy_seconds / simulation.seconds));
  }
  absl::StrAppend(&html, "</table>\n");
  if (ports.size() > kMaxBars) {
    absl::StrAppend(&html, "<p>and ", ports.size() - kMaxBars,
                    " ports that are less busy</p>\n");
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
      "td div{background:#3b6fb6;height:10px}</style></head><body>\n<h1>",
      title, "</h1>\n<h2>Bytes from trainer to engine</h2>\n",
      HeatMap(job, result));
  if (result.simulation.has_value() && result.simulation->seconds > 0) {
    absl::StrAppend(&html, Ports(*result.simulation));
  }
  absl::StrAppend(&html, "<h2>The plan</h2>\n<pre>",
                  plan::EscapedForMarkup(FormatFleet(job, result)),
                  "</pre>\n</body></html>\n");
  return html;
}

}  // namespace weft::apps
