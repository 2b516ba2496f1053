#include "plan_diff.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "console.h"
#include "placement_file.h"
#include "weft/base/status.h"
#include "weft/plan/diff_placements.h"

namespace weft::apps {
namespace {

constexpr size_t kMaxShown = 40;

// "model.layers.*.mlp": layers and experts that differ alike are one row.
std::string PatternOf(const std::string& name) {
  std::vector<std::string> parts = absl::StrSplit(name, '.');
  for (std::string& part : parts) {
    if (!part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
          return absl::ascii_isdigit(static_cast<unsigned char>(c));
        })) {
      part = "*";
    }
  }
  return absl::StrJoin(parts, ".");
}

struct SourceBytes {
  int64_t rank = 0;
  int64_t ours = 0;
  int64_t theirs = 0;
};

// Trainer ranks that do not send the same in both.
std::vector<SourceBytes> DiffLoads(const plan::FleetLoad& ours,
                                   const plan::FleetLoad& theirs) {
  std::map<int64_t, SourceBytes> all;
  for (const plan::FleetLoad::Source& source : ours.sources) {
    all[source.rank].ours = source.bytes;
  }
  for (const plan::FleetLoad::Source& source : theirs.sources) {
    all[source.rank].theirs = source.bytes;
  }
  std::vector<SourceBytes> differing;
  for (auto& [rank, bytes] : all) {
    bytes.rank = rank;
    if (bytes.ours != bytes.theirs) differing.push_back(bytes);
  }
  return differing;
}

std::string FormatLoads(const std::vector<SourceBytes>& loads) {
  if (loads.empty()) return "every trainer rank sends the same bytes in both";
  std::vector<std::vector<std::string>> cells;
  for (const SourceBytes& each : loads) {
    if (cells.size() == kMaxShown) break;
    cells.push_back({absl::StrCat(each.rank), absl::StrCat(each.ours),
                     absl::StrCat(each.theirs)});
  }
  std::string text =
      FormatTable({"TRAINER RANK", "SENDS BYTES HERE", "THERE"}, cells);
  if (loads.size() > kMaxShown) {
    absl::StrAppend(&text, "and ", loads.size() - kMaxShown, " more ranks\n");
  }
  return text;
}

std::string Heading(const PlanJob& job, const FleetResult& fleet) {
  return absl::StrCat(job.from_text, " (", job.sources.size(), " ranks) -> ",
                      job.to_text, " (", job.targets.size(), " ranks), ",
                      HumanBytes(fleet.load.sent_bytes));
}

}  // namespace

std::string FormatDifferences(const std::vector<RankDifference>& all) {
  struct Kind {
    std::set<int64_t> ranks;
    std::set<std::string> tensors;
    const RankDifference* example = nullptr;
  };
  std::map<std::string, std::map<std::string, Kind>> patterns;
  for (const RankDifference& each : all) {
    Kind& kind =
        patterns[PatternOf(each.difference.stored)][each.difference.what];
    kind.ranks.insert(each.rank);
    kind.tensors.insert(each.difference.stored);
    if (kind.example == nullptr) kind.example = &each;
  }
  std::string text;
  size_t shown = 0;
  for (const auto& [pattern, kinds] : patterns) {
    if (++shown > kMaxShown) break;
    absl::StrAppend(&text, pattern, "\n");
    for (const auto& [what, kind] : kinds) {
      const plan::StoredDifference& example = kind.example->difference;
      const size_t count = kind.tensors.size();
      absl::StrAppend(&text, "  ", what);
      if (count > 1) absl::StrAppend(&text, " of ", count, " tensors");
      absl::StrAppend(&text, " on engine rank",
                      kind.ranks.size() == 1 ? " " : "s ",
                      RanksText(kind.ranks));
      if (count * kind.ranks.size() > 1) {
        absl::StrAppend(&text, ", such as ", example.stored, " on ",
                        kind.example->rank);
      }
      absl::StrAppend(&text, "\n    here   ", example.ours, "\n    there  ",
                      example.theirs, "\n");
    }
  }
  if (patterns.size() > kMaxShown) {
    absl::StrAppend(&text, "and ", patterns.size() - kMaxShown,
                    " more kinds of names\n");
  }
  return text;
}

nlohmann::json DifferencesJson(const std::vector<RankDifference>& all) {
  nlohmann::json list = nlohmann::json::array();
  for (const RankDifference& each : all) {
    list.push_back({{"rank", each.rank},
                    {"stored", each.difference.stored},
                    {"what", each.difference.what},
                    {"ours", each.difference.ours},
                    {"theirs", each.difference.theirs}});
  }
  return list;
}

std::string DiffFleets(const PlanJob& our_job, const FleetResult& ours,
                       const PlanJob& their_job, const FleetResult& theirs,
                       bool json) {
  std::vector<RankDifference> differences;
  const size_t ranks = std::min(ours.plans.size(), theirs.plans.size());
  for (size_t r = 0; r < ranks; ++r) {
    const manifest::Placement& a = our_job.targets[r];
    const manifest::Placement& b = their_job.targets[r];
    const auto add = [&](std::vector<plan::StoredDifference> found) {
      for (plan::StoredDifference& each : found) {
        differences.push_back({static_cast<int64_t>(r), std::move(each)});
      }
    };
    add(plan::DiffPlacements(a, b));
    add(plan::DiffSources(ours.plans[r], a, theirs.plans[r], b));
  }
  const std::vector<SourceBytes> loads = DiffLoads(ours.load, theirs.load);
  const bool equal = differences.empty() && loads.empty() &&
                     ours.plans.size() == theirs.plans.size();
  if (json) {
    nlohmann::json object = {
        {"equal", equal},
        {"from", {our_job.from_text, their_job.from_text}},
        {"to", {our_job.to_text, their_job.to_text}},
        {"ranks", {ours.plans.size(), theirs.plans.size()}},
        {"differences", DifferencesJson(differences)},
        {"sources", nlohmann::json::array()}};
    for (const SourceBytes& each : loads) {
      object["sources"].push_back(
          {{"rank", each.rank}, {"ours", each.ours}, {"theirs", each.theirs}});
    }
    return object.dump();
  }
  std::string text =
      absl::StrCat("here:  ", Heading(our_job, ours),
                   "\nthere: ", Heading(their_job, theirs), "\n\n");
  if (ours.plans.size() != theirs.plans.size()) {
    absl::StrAppend(&text, "compared are engine ranks 0 to ", ranks - 1,
                    ", which both have\n\n");
  }
  absl::StrAppend(&text,
                  differences.empty() ? "no stored tensor differs\n"
                                      : FormatDifferences(differences),
                  "\n", FormatLoads(loads));
  return text;
}

absl::StatusOr<std::string> DiffCaptured(const PlanJob& job,
                                         const std::string& path, bool json) {
  WEFT_ASSIGN_OR_RETURN(const manifest::Placement captured,
                        LoadPlacement(path));
  if (captured.rank < 0 ||
      captured.rank >= static_cast<int64_t>(job.targets.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is of rank ", captured.rank,
                     ", which is not below "
                     "the ",
                     job.targets.size(), " ranks of \"", job.to_text, "\""));
  }
  std::vector<RankDifference> differences;
  for (plan::StoredDifference& each :
       plan::DiffPlacements(job.targets[captured.rank], captured)) {
    differences.push_back({captured.rank, std::move(each)});
  }
  if (json) {
    return nlohmann::json{{"equal", differences.empty()},
                          {"to", {job.to_text, captured.layout_spec}},
                          {"rank", captured.rank},
                          {"differences", DifferencesJson(differences)}}
        .dump();
  }
  return absl::StrCat("here:  rank ", captured.rank, " of ", job.to_text,
                      " as the recipe says\nthere: ", path, " (",
                      captured.layout_spec, ")\n\n",
                      differences.empty() ? "no stored tensor differs"
                                          : FormatDifferences(differences));
}

}  // namespace weft::apps
