#include "chaos_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "console.h"

namespace weft::apps {
namespace {

// Of sorted values; 0 of none.
double Quantile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const auto rank = static_cast<size_t>(
      std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

std::vector<double> HealTimes(const std::vector<ChaosOutcome>& outcomes) {
  std::vector<double> times;
  for (const ChaosOutcome& each : outcomes) {
    if (each.healed) times.push_back(each.heal_seconds);
  }
  std::sort(times.begin(), times.end());
  return times;
}

std::string CountOrDot(int64_t count) {
  return count == 0 ? "." : absl::StrCat(count);
}

std::string StepTable(const std::vector<ChaosOutcome>& outcomes) {
  std::vector<std::string> header = {"TRIALS AT"};
  for (const std::string& role : ChaosRoles()) header.push_back(role);
  std::vector<std::vector<std::string>> rows;
  for (const std::string& step : ChaosSteps()) {
    std::vector<std::string> row = {step};
    for (const std::string& role : ChaosRoles()) {
      row.push_back(CountOrDot(std::count_if(
          outcomes.begin(), outcomes.end(), [&](const ChaosOutcome& each) {
            return each.cell.step == step && each.cell.role == role;
          })));
    }
    rows.push_back(std::move(row));
  }
  return FormatTable(header, rows);
}

std::string FaultTable(const std::vector<ChaosOutcome>& outcomes) {
  std::vector<std::vector<std::string>> rows;
  for (const std::string& role : ChaosRoles()) {
    for (const std::string& fault : ChaosFaultNames()) {
      std::vector<ChaosOutcome> struck;
      for (const ChaosOutcome& each : outcomes) {
        if (each.cell.role != role || each.cell.fault != fault) continue;
        struck.push_back(each);
      }
      if (struck.empty()) continue;
      const ChaosSummary sum = SumUp(struck);
      rows.push_back(
          {role, fault, absl::StrCat(sum.trials), absl::StrCat(sum.torn),
           absl::StrCat(sum.hangs), absl::StrCat(sum.rules_broken),
           absl::StrCat(sum.not_healed), HumanSeconds(sum.heal_median_seconds),
           HumanSeconds(sum.heal_p99_seconds)});
    }
  }
  return FormatTable({"ROLE", "FAULT", "TRIALS", "TORN", "HANGS", "RULES",
                      "NOT HEALED", "HEAL MEDIAN", "P99"},
                     rows);
}

}  // namespace

ChaosSummary SumUp(const std::vector<ChaosOutcome>& outcomes) {
  ChaosSummary sum;
  for (const ChaosOutcome& each : outcomes) {
    ++sum.trials;
    sum.reached += each.reached ? 1 : 0;
    sum.torn += each.torn;
    sum.hangs += each.hangs;
    sum.rules_broken += each.rules_broken;
    sum.not_healed += each.healed ? 0 : 1;
    sum.commits += each.commits;
    sum.commits_from_copies += each.commits_from_copies;
    sum.restarts += each.restarts;
  }
  const std::vector<double> times = HealTimes(outcomes);
  sum.heal_median_seconds = Quantile(times, 0.5);
  sum.heal_p99_seconds = Quantile(times, 0.99);
  return sum;
}

std::string FormatChaos(const std::vector<ChaosOutcome>& outcomes,
                        const ChaosSummary& summary) {
  return absl::StrCat(
      StepTable(outcomes), "\n", FaultTable(outcomes), "\n", summary.trials,
      " trials (", summary.reached, " struck at the step itself), ",
      summary.commits, " commits read, ", summary.commits_from_copies,
      " of them through copies: torn weights served ", summary.torn,
      ", hangs past a deadline ", summary.hangs,
      ", rules broken in event logs ", summary.rules_broken, ", not healed ",
      summary.not_healed, "; healed in ",
      HumanSeconds(summary.heal_median_seconds), " (median), ",
      HumanSeconds(summary.heal_p99_seconds), " (p99); ", summary.restarts,
      " times a rank ended by itself and was started again");
}

nlohmann::json ToJson(const ChaosOutcome& outcome) {
  return {{"event", "trial"},
          {"trial", outcome.trial},
          {"fleet", outcome.fleet},
          {"step", outcome.cell.step},
          {"role", outcome.cell.role},
          {"fault", outcome.cell.fault},
          {"reached", outcome.reached},
          {"torn", outcome.torn},
          {"hangs", outcome.hangs},
          {"rules_broken", outcome.rules_broken},
          {"healed", outcome.healed},
          {"commits", outcome.commits},
          {"commits_from_copies", outcome.commits_from_copies},
          {"restarts", outcome.restarts},
          {"fault_seconds", outcome.fault_seconds},
          {"heal_seconds", outcome.heal_seconds}};
}

nlohmann::json ToJson(const ChaosSummary& summary) {
  return {{"event", "chaos"},
          {"trials", summary.trials},
          {"reached", summary.reached},
          {"commits", summary.commits},
          {"commits_from_copies", summary.commits_from_copies},
          {"restarts", summary.restarts},
          {"torn", summary.torn},
          {"hangs", summary.hangs},
          {"rules_broken", summary.rules_broken},
          {"not_healed", summary.not_healed},
          {"heal_median_seconds", summary.heal_median_seconds},
          {"heal_p99_seconds", summary.heal_p99_seconds},
          {"ok", summary.ok()}};
}

}  // namespace weft::apps
