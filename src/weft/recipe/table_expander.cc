#include "weft/recipe/table_expander.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace weft::recipe {

absl::Status FailAt(std::string_view where, std::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(where), ": ", std::string(message)));
}
namespace {

// More layers or heads than any model; stops a config with an absurd number
// before it fills the memory.
constexpr int64_t kMaxLoopCount = 65536;

absl::StatusOr<tensor::Range> RoundsOf(const Loop& loop,
                                       const Environment& environment) {
  WEFT_ASSIGN_OR_RETURN(const tensor::Range range,
                        loop.range.Evaluate(environment));
  if (range.extent() > kMaxLoopCount) {
    return FailAt(loop.where,
                  absl::StrCat("loop of ", range.extent(), " rounds is longer ",
                               "than ", kMaxLoopCount));
  }
  return range;
}

// Runs `body` as often as the guard says, with the loop variable set.
template <typename Body>
absl::Status ForEach(const Guard& guard, Environment& environment, Body body) {
  if (guard.when) {
    WEFT_ASSIGN_OR_RETURN(const int64_t condition,
                          guard.when->Evaluate(environment));
    if (condition == 0) return absl::OkStatus();
  }
  if (!guard.loop) return body();
  WEFT_ASSIGN_OR_RETURN(const tensor::Range range,
                        RoundsOf(*guard.loop, environment));
  for (int64_t i = range.begin; i < range.end; ++i) {
    environment.Set(guard.loop->slot, i);
    WEFT_RETURN_IF_ERROR(body());
  }
  return absl::OkStatus();
}

class LogicalExpander {
 public:
  LogicalExpander(const Environment& environment, tensor::DType dtype)
      : environment_(environment), dtype_(dtype) {}

  absl::Status Expand(const std::vector<LogicalRule>& rules,
                      const std::string& prefix) {
    for (const LogicalRule& rule : rules) {
      WEFT_RETURN_IF_ERROR(
          ForEach(rule.guard, environment_, [&]() -> absl::Status {
            if (!rule.is_group) return Add(rule, prefix);
            WEFT_RETURN_IF_ERROR(EvaluateLets(rule.lets, environment_));
            WEFT_ASSIGN_OR_RETURN(const std::string own,
                                  rule.prefix.Evaluate(environment_));
            return Expand(rule.children, prefix + own);
          }));
    }
    return absl::OkStatus();
  }

  std::vector<LogicalTensor> Take() { return std::move(tensors_); }

 private:
  absl::Status Add(const LogicalRule& rule, const std::string& prefix) {
    WEFT_ASSIGN_OR_RETURN(const std::string name,
                          rule.name.Evaluate(environment_));
    LogicalTensor logical;
    logical.spec.name = prefix + name;
    logical.spec.dtype = dtype_;
    logical.tp = rule.tp;
    for (const Expression& extent : rule.shape) {
      WEFT_ASSIGN_OR_RETURN(logical.spec.shape.emplace_back(),
                            extent.Evaluate(environment_));
    }
    // Proves that the extents are not negative and their product fits.
    const absl::StatusOr<tensor::Box> box =
        tensor::Box::OfShape(logical.spec.shape);
    if (!box.ok()) {
      return FailAt(rule.where, absl::StrCat("shape of \"", logical.spec.name,
                                             "\": ", box.status().message()));
    }
    if (!names_.insert(logical.spec.name).second) {
      return FailAt(rule.where, absl::StrCat("tensor \"", logical.spec.name,
                                             "\" is described twice"));
    }
    tensors_.push_back(std::move(logical));
    return absl::OkStatus();
  }

  Environment environment_;
  tensor::DType dtype_;
  absl::flat_hash_set<std::string> names_;
  std::vector<LogicalTensor> tensors_;
};

class StoredExpander {
 public:
  explicit StoredExpander(const Environment& environment)
      : environment_(environment) {}

  absl::Status Expand(const std::vector<StoredRule>& rules,
                      const std::string& prefix, const std::string& of_prefix) {
    for (const StoredRule& rule : rules) {
      WEFT_RETURN_IF_ERROR(
          ForEach(rule.guard, environment_, [&]() -> absl::Status {
            if (!rule.is_group) return Add(rule, prefix, of_prefix);
            WEFT_RETURN_IF_ERROR(EvaluateLets(rule.lets, environment_));
            WEFT_ASSIGN_OR_RETURN(const std::string own,
                                  rule.prefix.Evaluate(environment_));
            WEFT_ASSIGN_OR_RETURN(const std::string own_of,
                                  rule.of_prefix.Evaluate(environment_));
            return Expand(rule.children, prefix + own, of_prefix + own_of);
          }));
    }
    return absl::OkStatus();
  }

  std::vector<StoredDescription> Take() { return std::move(stored_); }

 private:
  absl::Status Add(const StoredRule& rule, const std::string& prefix,
                   const std::string& of_prefix) {
    WEFT_ASSIGN_OR_RETURN(const std::string name,
                          rule.name.Evaluate(environment_));
    StoredDescription stored;
    stored.name = prefix + name;
    stored.where = rule.where;
    if (!names_.insert(stored.name).second) {
      return FailAt(rule.where, absl::StrCat("stored tensor \"", stored.name,
                                             "\" is described twice"));
    }
    if (rule.cut) {
      WEFT_ASSIGN_OR_RETURN(stored.cut, rule.cut->Evaluate(environment_));
    }
    if (rule.stack) {
      WEFT_RETURN_IF_ERROR(AddEntries(rule, of_prefix, stored));
    } else {
      WEFT_RETURN_IF_ERROR(
          AddParts(rule.parts, of_prefix, stored.entries.emplace_back()));
    }
    stored_.push_back(std::move(stored));
    return absl::OkStatus();
  }

  // The kept entries of a stack only: a rank with few of many experts does not
  // pay for the others.
  absl::Status AddEntries(const StoredRule& rule, const std::string& of_prefix,
                          StoredDescription& stored) {
    WEFT_ASSIGN_OR_RETURN(const tensor::Range all,
                          RoundsOf(*rule.stack, environment_));
    if (all.extent() == 0) {
      return FailAt(rule.where, absl::StrCat("the stack \"", stored.name,
                                             "\" has no entry that would tell "
                                             "its shape"));
    }
    const tensor::Range kept =
        stored.cut.value_or(tensor::Range{0, all.extent()});
    stored.cut.reset();
    if (kept.end > all.extent()) {
      return FailAt(
          rule.where,
          absl::StrCat("cut [", kept.begin, ",", kept.end, ") exceeds the ",
                       all.extent(), " entries of \"", stored.name, "\""));
    }
    stored.is_stack = true;
    stored.num_entries = kept.extent();
    const int64_t first = all.begin + (kept.extent() > 0 ? kept.begin : 0);
    const int64_t count = std::max<int64_t>(kept.extent(), 1);
    for (int64_t i = first; i < first + count; ++i) {
      environment_.Set(rule.stack->slot, i);
      WEFT_RETURN_IF_ERROR(
          AddParts(rule.parts, of_prefix, stored.entries.emplace_back()));
    }
    return absl::OkStatus();
  }

  absl::Status AddParts(const std::vector<PartRule>& rules,
                        const std::string& of_prefix,
                        std::vector<StoredPart>& parts) {
    for (const PartRule& rule : rules) {
      WEFT_RETURN_IF_ERROR(
          ForEach(rule.guard, environment_, [&]() -> absl::Status {
            if (rule.is_group) return AddParts(rule.children, of_prefix, parts);
            WEFT_ASSIGN_OR_RETURN(parts.emplace_back(),
                                  PartOf(rule, of_prefix));
            return absl::OkStatus();
          }));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<StoredPart> PartOf(const PartRule& rule,
                                    const std::string& of_prefix) {
    StoredPart part;
    part.where = rule.where;
    if (rule.zero_rows) {
      WEFT_ASSIGN_OR_RETURN(part.zero_rows,
                            rule.zero_rows->Evaluate(environment_));
      if (part.zero_rows < 0) {
        return FailAt(rule.where,
                      absl::StrCat(part.zero_rows, " rows of zeros"));
      }
      return part;
    }
    WEFT_ASSIGN_OR_RETURN(const std::string of, rule.of.Evaluate(environment_));
    part.of = of_prefix + of;
    if (rule.rows) {
      WEFT_ASSIGN_OR_RETURN(part.rows, rule.rows->Evaluate(environment_));
    }
    if (rule.columns) {
      WEFT_ASSIGN_OR_RETURN(part.columns, rule.columns->Evaluate(environment_));
    }
    return part;
  }

  Environment environment_;
  absl::flat_hash_set<std::string> names_;
  std::vector<StoredDescription> stored_;
};

std::map<std::string, int64_t>::const_iterator FindField(
    const ConfigSymbol& symbol, const ModelConfig& config) {
  auto found = config.numbers.find(symbol.key);
  for (const std::string& other : symbol.other_keys) {
    if (found != config.numbers.end()) break;
    found = config.numbers.find(other);
  }
  return found;
}

absl::Status CheckConfigValue(const ConfigSymbol& symbol, int64_t value) {
  if (symbol.kind == ConfigSymbol::Kind::kNumber && value < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config field ", symbol.key, "=", value, " is not positive"));
  }
  if (symbol.kind == ConfigSymbol::Kind::kFlag && value != 0 && value != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config field ", symbol.key, "=", value, " is neither true nor false"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Environment> BindConfig(const RecipeTables& tables,
                                       const ModelConfig& config) {
  base::FaultList faults;
  for (const ConfigSymbol& symbol : tables.config) {
    if (symbol.kind == ConfigSymbol::Kind::kValue) continue;
    const auto given = FindField(symbol, config);
    if (given == config.numbers.end()) {
      if (symbol.value) continue;
      faults.Add(absl::StrCat("config of ", config.architecture,
                              " lacks the field ", symbol.key));
    } else if (const absl::Status status =
                   CheckConfigValue(symbol, given->second);
               !status.ok()) {
      faults.Add(std::string(status.message()));
    }
  }
  for (const ConfigList& list : tables.lists) {
    if (config.numbers.contains(list.key)) {
      faults.Add(absl::StrCat("config field ", list.key, "=",
                              config.numbers.at(list.key),
                              " is not a list of integers"));
    }
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  Environment environment;
  for (const ConfigList& list : tables.lists) {
    const auto given = config.lists.find(list.key);
    environment.lists.push_back(
        given == config.lists.end() ? std::vector<int64_t>() : given->second);
  }
  for (const ConfigSymbol& symbol : tables.config) {
    const auto given = FindField(symbol, config);
    if (symbol.kind != ConfigSymbol::Kind::kValue &&
        given != config.numbers.end()) {
      environment.values.push_back(given->second);
      continue;
    }
    const absl::StatusOr<int64_t> value = symbol.value->Evaluate(environment);
    if (!value.ok() && !symbol.key.empty()) {
      return base::Annotate(
          value.status(), absl::StrCat("config lacks the field ", symbol.key,
                                       " and its default cannot be computed"));
    }
    WEFT_RETURN_IF_ERROR(value.status());
    WEFT_RETURN_IF_ERROR(CheckConfigValue(symbol, *value));
    environment.values.push_back(*value);
  }
  return environment;
}

absl::Status CheckRequirements(const std::vector<Requirement>& requirements,
                               const Environment& environment,
                               base::FaultList& faults) {
  for (const Requirement& requirement : requirements) {
    WEFT_ASSIGN_OR_RETURN(const int64_t holds,
                          requirement.that.Evaluate(environment));
    if (holds != 0) continue;
    WEFT_ASSIGN_OR_RETURN(std::string sentence,
                          requirement.otherwise.Evaluate(environment));
    faults.Add(std::move(sentence));
  }
  return absl::OkStatus();
}

absl::Status EvaluateLets(const std::vector<Let>& lets,
                          Environment& environment) {
  for (const Let& let : lets) {
    WEFT_ASSIGN_OR_RETURN(const int64_t value, let.value.Evaluate(environment));
    environment.Set(let.slot, value);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<LogicalTensor>> ExpandLogical(
    const std::vector<LogicalRule>& rules, const Environment& environment,
    tensor::DType dtype) {
  LogicalExpander expander(environment, dtype);
  WEFT_RETURN_IF_ERROR(expander.Expand(rules, ""));
  return expander.Take();
}

absl::StatusOr<std::vector<StoredDescription>> ExpandStored(
    const std::vector<StoredRule>& rules, const Environment& environment) {
  StoredExpander expander(environment);
  WEFT_RETURN_IF_ERROR(expander.Expand(rules, "", ""));
  return expander.Take();
}

}  // namespace weft::recipe
