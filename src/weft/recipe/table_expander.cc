#include "weft/recipe/table_expander.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "weft/recipe/rule_memo.h"

namespace weft::recipe {

absl::Status FailAt(std::string_view where, std::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(where), ": ", std::string(message)));
}
namespace {

// Runs `body` as often as the guard says, with the loop variable set.
template <typename Body>
absl::Status ForEach(const Guard& guard, Environment& environment, Body body) {
  if (guard.when) {
    WEFT_ASSIGN_OR_RETURN(const int64_t condition,
                          guard.when->Evaluate(environment));
    if (condition == 0) return absl::OkStatus();
  }
  if (!guard.loop) return body();
  WEFT_ASSIGN_OR_RETURN(const std::vector<int64_t> rounds,
                        guard.loop->values.Evaluate(environment));
  for (const int64_t i : rounds) {
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
                      const std::string& prefix, bool in_memory) {
    for (const LogicalRule& rule : rules) {
      WEFT_RETURN_IF_ERROR(
          ForEach(rule.guard, environment_, [&]() -> absl::Status {
            if (!rule.is_group) return Add(rule, prefix, in_memory);
            WEFT_RETURN_IF_ERROR(EvaluateLets(rule.lets, environment_));
            WEFT_ASSIGN_OR_RETURN(const std::string own,
                                  rule.prefix.Evaluate(environment_));
            return Expand(rule.children, prefix + own,
                          in_memory && rule.memory);
          }));
    }
    return absl::OkStatus();
  }

  std::vector<LogicalTensor> Take() { return std::move(tensors_); }

 private:
  absl::Status Add(const LogicalRule& rule, const std::string& prefix,
                   bool in_memory) {
    WEFT_ASSIGN_OR_RETURN(const std::string name,
                          rule.name.Evaluate(environment_));
    LogicalTensor logical;
    logical.spec.name = prefix + name;
    logical.spec.dtype = rule.dtype.value_or(dtype_);
    logical.dtype_pinned = rule.dtype.has_value();
    logical.tp = rule.tp;
    logical.quant = rule.quant;
    logical.shard = rule.shard;
    logical.memory = in_memory;
    logical.where = rule.where;
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
  StoredExpander(const Environment& environment, const EntryShare& share,
                 RuleMemo* memo)
      : environment_(environment), share_(share), memo_(memo) {
    if (memo_ != nullptr) names_.reserve(memo_->last_size());
  }

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

  ExpandedTensors Take() {
    if (memo_ != nullptr) memo_->set_last_size(stored_.size());
    return std::move(stored_);
  }

 private:
  absl::Status Add(const StoredRule& rule, const std::string& prefix,
                   const std::string& of_prefix) {
    // Which entries `share_` keeps is not in the environment.
    const bool is_kept = memo_ != nullptr && !(share_ && rule.stack);
    std::shared_ptr<ExpandedTensor> expanded;
    std::shared_ptr<ExpandedTensor>* place = &expanded;
    if (is_kept) place = memo_->Find(rule, prefix, of_prefix, environment_);
    if (place == nullptr) place = &expanded;
    if (*place == nullptr) {
      auto made = std::make_shared<ExpandedTensor>();
      made->is_kept = place != &expanded;
      WEFT_RETURN_IF_ERROR(
          Describe(rule, prefix, of_prefix, made->description));
      *place = std::move(made);
    }
    // Lives as long as the tensor, which stored_ shares.
    if (!names_.insert((*place)->description.name).second) {
      return FailAt(rule.where,
                    absl::StrCat("stored tensor \"", (*place)->description.name,
                                 "\" is described twice"));
    }
    stored_.push_back(*place);
    return absl::OkStatus();
  }

  absl::Status Describe(const StoredRule& rule, const std::string& prefix,
                        const std::string& of_prefix,
                        StoredDescription& stored) {
    WEFT_ASSIGN_OR_RETURN(const std::string name,
                          rule.name.Evaluate(environment_));
    stored.name = prefix + name;
    stored.where = rule.where;
    stored.dtype = rule.dtype;
    stored.transform = rule.transform;
    stored.quant = rule.quant;
    if (rule.cut) {
      WEFT_ASSIGN_OR_RETURN(stored.cut, rule.cut->Evaluate(environment_));
    }
    if (rule.stack) return AddEntries(rule, of_prefix, stored);
    return AddParts(rule.parts, of_prefix, stored.entries.emplace_back());
  }

  // The kept entries of a stack only: a rank with few of many experts does not
  // pay for the others.
  absl::Status AddEntries(const StoredRule& rule, const std::string& of_prefix,
                          StoredDescription& stored) {
    WEFT_ASSIGN_OR_RETURN(std::vector<int64_t> entries,
                          rule.stack->values.Evaluate(environment_));
    const int64_t all = static_cast<int64_t>(entries.size());
    if (all == 0 && rule.stack->values.is_range()) {
      return FailAt(rule.where, absl::StrCat("the stack \"", stored.name,
                                             "\" has no entry that would tell "
                                             "its shape"));
    }
    tensor::Range kept = stored.cut.value_or(tensor::Range{0, all});
    stored.cut.reset();
    if (share_) {
      WEFT_ASSIGN_OR_RETURN(kept, share_(all));
    }
    if (kept.end > all) {
      return FailAt(
          rule.where,
          absl::StrCat("cut [", kept.begin, ",", kept.end, ") exceeds the ",
                       all, " entries of \"", stored.name, "\""));
    }
    // A rank that keeps none has an empty tensor of the others' shape.
    const int64_t pattern = entries.empty() ? 0 : entries.front();
    stored.is_stack = true;
    stored.num_entries = kept.extent();
    entries.assign(entries.begin() + kept.begin, entries.begin() + kept.end);
    if (entries.empty()) entries.push_back(pattern);
    for (const int64_t i : entries) {
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
      if (rule.zero_columns) {
        WEFT_ASSIGN_OR_RETURN(part.zero_columns.emplace(),
                              rule.zero_columns->Evaluate(environment_));
      }
      return part;
    }
    WEFT_ASSIGN_OR_RETURN(const std::string of, rule.of.Evaluate(environment_));
    part.of = of_prefix + of;
    part.transpose = rule.transpose;
    if (rule.index) {
      WEFT_ASSIGN_OR_RETURN(part.index.emplace(),
                            rule.index->Evaluate(environment_));
    }
    if (rule.ways) {
      WEFT_ASSIGN_OR_RETURN(part.ways, rule.ways->Evaluate(environment_));
    }
    if (rule.unit) {
      WEFT_ASSIGN_OR_RETURN(part.unit, rule.unit->Evaluate(environment_));
    }
    if (rule.rows) {
      WEFT_ASSIGN_OR_RETURN(part.rows, rule.rows->Evaluate(environment_));
    }
    if (rule.columns) {
      WEFT_ASSIGN_OR_RETURN(part.columns, rule.columns->Evaluate(environment_));
    }
    return part;
  }

  Environment environment_;
  const EntryShare& share_;
  RuleMemo* const memo_;
  absl::flat_hash_set<std::string_view> names_;
  ExpandedTensors stored_;
};

}  // namespace

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
  WEFT_RETURN_IF_ERROR(expander.Expand(rules, "", true));
  return expander.Take();
}

absl::StatusOr<ExpandedTensors> ExpandStored(
    const std::vector<StoredRule>& rules, const Environment& environment,
    const EntryShare& share, const std::string& name_prefix, RuleMemo* memo) {
  StoredExpander expander(environment, share, memo);
  WEFT_RETURN_IF_ERROR(expander.Expand(rules, name_prefix, ""));
  return expander.Take();
}

}  // namespace weft::recipe
