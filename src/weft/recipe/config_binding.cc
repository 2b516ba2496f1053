#include "weft/recipe/config_binding.h"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

using Kind = ConfigSymbol::Kind;

// The first of the symbol's names that the file has.
std::map<std::string, int64_t>::const_iterator FindField(
    const ConfigSymbol& symbol, const ModelConfig& config) {
  auto found = config.numbers.find(symbol.key);
  for (const std::string& other : symbol.other_keys) {
    if (found != config.numbers.end()) break;
    found = config.numbers.find(other);
  }
  return found;
}

// Of the first of the symbol's names that the file has with something else than
// a number; OK if it has none. A default would hide it.
absl::Status CheckNoText(const ConfigSymbol& symbol,
                         const ModelConfig& config) {
  std::vector<std::string> keys = {symbol.key};
  keys.insert(keys.end(), symbol.other_keys.begin(), symbol.other_keys.end());
  for (const std::string& key : keys) {
    const auto text = config.texts.find(key);
    if (text == config.texts.end()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "config field ", key, "=", text->second, " is ",
        symbol.kind == Kind::kFlag ? "neither true nor false"
                                   : "no whole number of 64 bits"));
  }
  return absl::OkStatus();
}

bool IsField(const ConfigSymbol& symbol) {
  return symbol.kind != Kind::kValue && symbol.kind != Kind::kPresent;
}

absl::Status CheckValue(const ConfigSymbol& symbol, int64_t value) {
  const int64_t least = symbol.kind == Kind::kNumber ? 1 : 0;
  if (symbol.kind == Kind::kFlag && value != 0 && value != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config field ", symbol.key, "=", value, " is neither true nor false"));
  }
  if (IsField(symbol) && value < least) {
    return absl::InvalidArgumentError(
        absl::StrCat("config field ", symbol.key, "=", value, " is not ",
                     least == 1 ? "positive" : "a count"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> ListOf(const ConfigList& list,
                                            const ModelConfig& config) {
  for (const std::string& key : list.keys) {
    if (const auto number = config.numbers.find(key);
        number != config.numbers.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config field ", key, "=", number->second,
                       " is not a list of integers"));
    }
    if (const auto integers = config.lists.find(key);
        integers != config.lists.end()) {
      return integers->second;
    }
    const auto words = config.words.find(key);
    if (words == config.words.end()) {
      const auto text = config.texts.find(key);
      if (text == config.texts.end()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("config field ", key, "=", text->second,
                       " is no list of integers or of words"));
    }
    std::vector<int64_t> codes;
    for (const std::string& word : words->second) {
      codes.push_back(WordCode(word));
    }
    return codes;
  }
  return std::vector<int64_t>();
}

absl::StatusOr<int64_t> ValueOf(const ConfigSymbol& symbol,
                                const ModelConfig& config,
                                const TensorNames& held,
                                const Environment& environment) {
  if (symbol.kind == Kind::kPresent) {
    WEFT_ASSIGN_OR_RETURN(const std::string name,
                          symbol.witness.Evaluate(environment));
    return held.contains(name) ? 1 : 0;
  }
  if (IsField(symbol)) {
    const auto given = FindField(symbol, config);
    if (given != config.numbers.end()) return given->second;
  }
  const absl::StatusOr<int64_t> value = symbol.value->Evaluate(environment);
  if (!value.ok() && !symbol.key.empty()) {
    return base::Annotate(value.status(),
                          absl::StrCat("config lacks the field ", symbol.key,
                                       " and its default cannot be computed"));
  }
  if (value.ok()) WEFT_RETURN_IF_ERROR(CheckValue(symbol, *value));
  return value;
}

}  // namespace

absl::StatusOr<Environment> BindConfig(const RecipeTables& tables,
                                       const ModelConfig& config,
                                       const TensorNames& held) {
  base::FaultList faults;
  for (const ConfigSymbol& symbol : tables.config) {
    if (!IsField(symbol)) continue;
    const auto given = FindField(symbol, config);
    if (given == config.numbers.end()) {
      if (const absl::Status status = CheckNoText(symbol, config);
          !status.ok()) {
        faults.Add(std::string(status.message()));
        continue;
      }
      if (symbol.value) continue;
      faults.Add(absl::StrCat("config of ", config.architecture,
                              " lacks the field ", symbol.key));
    } else if (const absl::Status status = CheckValue(symbol, given->second);
               !status.ok()) {
      faults.Add(std::string(status.message()));
    }
  }
  Environment environment;
  for (const ConfigList& list : tables.lists) {
    absl::StatusOr<std::vector<int64_t>> values = ListOf(list, config);
    if (!values.ok()) faults.Add(std::string(values.status().message()));
    environment.lists.push_back(values.ok() ? *std::move(values)
                                            : std::vector<int64_t>());
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  for (const ConfigSymbol& symbol : tables.config) {
    WEFT_ASSIGN_OR_RETURN(const int64_t value,
                          ValueOf(symbol, config, held, environment));
    environment.values.push_back(value);
  }
  return environment;
}

}  // namespace weft::recipe
