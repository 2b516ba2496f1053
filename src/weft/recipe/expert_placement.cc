#include "weft/recipe/expert_placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "weft/recipe/expression.h"
#include "weft/tensor/box.h"

namespace weft::recipe {
namespace {

using Json = nlohmann::json;

// More experts than any model; bounds what a hostile file can ask for.
constexpr std::size_t kMaxPhysical = 65536;

// Share `rank` of n in runs, the first n mod k ranks having one more.
tensor::Range DealtRun(int64_t n, int64_t k, int64_t rank) {
  const int64_t base = n / k, more = n % k;
  return {rank * base + std::min(rank, more),
          (rank + 1) * base + std::min(rank + 1, more)};
}

absl::Status CheckList(const ExpertTable& table, std::size_t number,
                       int64_t num_experts) {
  const std::vector<int64_t>& list = table.lists[number];
  std::vector<bool> seen(num_experts, false);
  base::FaultList faults;
  const std::string which =
      table.is_per_layer ? absl::StrCat(" in list ", number) : "";
  for (const int64_t expert : list) {
    if (expert >= 0 && expert < num_experts) {
      seen[expert] = true;
    } else {
      faults.Add(absl::StrCat("eplb=", table.path, " names expert ", expert,
                              which, " but the model has ", num_experts));
    }
  }
  const auto missing = std::find(seen.begin(), seen.end(), false);
  if (missing != seen.end()) {
    faults.Add(absl::StrCat("eplb=", table.path, " leaves out expert ",
                            missing - seen.begin(), which, " of the model's ",
                            num_experts));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::StatusOr<std::vector<int64_t>> ListOf(const Json& json) {
  std::vector<int64_t> list;
  for (const Json& item : json) {
    if (!item.is_number_integer() || item.get<double>() < 0 ||
        item.get<double>() > static_cast<double>(kMaxPhysical)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", item.dump(), "\" is no number of an expert"));
    }
    list.push_back(item.get<int64_t>());
  }
  if (list.empty() || list.size() > kMaxPhysical) {
    return absl::InvalidArgumentError(
        absl::StrCat("a list of ", list.size(), " physical experts"));
  }
  return list;
}

absl::Status ReadLists(const std::string& text, ExpertTable& table) {
  const Json root = Json::parse(text, /*cb=*/nullptr,
                                /*allow_exceptions=*/false);
  for (const char* key : {"physical_to_logical", "physical_to_logical_map"}) {
    if (!root.is_object() || !root.contains(key)) continue;
    const Json& value = root.at(key);
    if (!value.is_array() || value.empty()) break;
    table.is_per_layer = value.front().is_array();
    if (!table.is_per_layer) {
      WEFT_ASSIGN_OR_RETURN(table.lists.emplace_back(), ListOf(value));
      return absl::OkStatus();
    }
    for (const Json& item : value) {
      if (!item.is_array()) {
        return absl::InvalidArgumentError("lists and numbers are mixed");
      }
      WEFT_ASSIGN_OR_RETURN(table.lists.emplace_back(), ListOf(item));
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "expected {\"physical_to_logical\": [[...], ...]}");
}

// Of what the table says, whatever the file looks like.
std::string HashOf(const ExpertTable& table) {
  std::string text(table.is_per_layer ? "a layer\n" : "all\n");
  for (const std::vector<int64_t>& list : table.lists) {
    for (const int64_t expert : list) absl::StrAppend(&text, expert, " ");
    absl::StrAppend(&text, "\n");
  }
  return absl::StrFormat("%016x", WordCode(text));
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> PlacedExperts(
    const ExpertPlacement& placement, int64_t num_experts, int64_t layer,
    int64_t groups) {
  std::vector<int64_t> held;
  const bool is_static =
      placement.table == nullptr && placement.num_redundant == 0;
  if (placement.round_robin && is_static && groups > 1) {
    for (int64_t e = placement.ep_rank; e < num_experts; e += placement.ep) {
      held.push_back(e);
    }
    return held;
  }
  std::vector<int64_t> physical(num_experts);
  std::iota(physical.begin(), physical.end(), 0);
  if (placement.table != nullptr) {
    const auto& lists = placement.table->lists;
    const std::size_t number = placement.table->is_per_layer ? layer : 0;
    if (layer < 0 || number >= lists.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "eplb=", placement.table->path, " has ", lists.size(),
          " lists but none for MoE layer ", layer, ", counted from 0"));
    }
    WEFT_RETURN_IF_ERROR(CheckList(*placement.table, number, num_experts));
    physical = lists[number];
  } else if (placement.num_redundant > static_cast<int64_t>(kMaxPhysical)) {
    return absl::InvalidArgumentError(
        absl::StrCat("redundant=", placement.num_redundant, " is more than ",
                     kMaxPhysical, " experts"));
  } else if (num_experts > 0) {
    for (int64_t i = 0; i < placement.num_redundant; ++i) {
      physical.push_back(i % num_experts);
    }
  }
  const int64_t num_physical = static_cast<int64_t>(physical.size());
  if (placement.even && num_physical % placement.ep != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ep=", placement.ep, " does not divide the ", num_physical,
        " physical experts; give redundant=",
        placement.num_redundant + placement.ep - num_physical % placement.ep,
        " for copies that fill them up"));
  }
  const tensor::Range run =
      DealtRun(num_physical, placement.ep, placement.ep_rank);
  held.assign(physical.begin() + run.begin, physical.begin() + run.end);
  return held;
}

absl::StatusOr<std::shared_ptr<const ExpertTable>> ReadExpertTable(
    const std::string& path) {
  const absl::StatusOr<std::string> text = base::ReadFile(path);
  if (!text.ok()) {
    return base::Annotate(text.status(), "the expert table of eplb=");
  }
  auto table = std::make_shared<ExpertTable>();
  table->path = path;
  if (const absl::Status status = ReadLists(*text, *table); !status.ok()) {
    return base::Annotate(status, absl::StrCat("eplb=", path));
  }
  table->hash = HashOf(*table);
  return std::shared_ptr<const ExpertTable>(std::move(table));
}

}  // namespace weft::recipe
