#include "weft/recipe/rule_parser.h"

#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

// No framework nests deeper; a YAML alias to itself would for ever.
constexpr int kMaxGroupDepth = 16;
// Nor has any this many rules; definitions that use each other could.
constexpr int kMaxRules = 65536;

absl::StatusOr<TpCut> ParseTpCut(const YamlValue& value) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, value.Text());
  if (text == "rows") return TpCut::kRows;
  if (text == "columns") return TpCut::kColumns;
  if (text == "none") return TpCut::kNone;
  return value.Fail(
      absl::StrCat("\"", text, "\" is unknown; known are rows, columns, none"));
}

absl::StatusOr<bool> OptionalYes(const YamlMap& map, std::string_view key,
                                 bool absent) {
  const std::optional<YamlValue> value = map.Find(key);
  if (!value) return absent;
  WEFT_ASSIGN_OR_RETURN(const std::string text, value->Text());
  if (text == "yes") return true;
  if (text == "no") return false;
  return value->Fail(absl::StrCat("\"", text, "\" is neither yes nor no"));
}

absl::StatusOr<std::optional<tensor::DType>> OptionalDType(const YamlMap& map) {
  const std::optional<YamlValue> value = map.Find("dtype");
  if (!value) return std::nullopt;
  WEFT_ASSIGN_OR_RETURN(const std::string text, value->Text());
  for (const tensor::DType dtype : {tensor::DType::kBF16, tensor::DType::kF16,
                                    tensor::DType::kF32, tensor::DType::kU8}) {
    if (absl::AsciiStrToLower(std::string(tensor::DTypeName(dtype))) == text) {
      return std::optional<tensor::DType>(dtype);
    }
  }
  if (text == "f8_e4m3") return std::optional(tensor::DType::kF8E4M3);
  return value->Fail(absl::StrCat(
      "\"", text, "\" is unknown; known are bf16, f16, f32, u8, f8_e4m3"));
}

absl::StatusOr<tensor::Transform> OptionalTransform(const YamlMap& map) {
  const std::optional<YamlValue> value = map.Find("transform");
  if (!value) return tensor::Transform::kNone;
  WEFT_ASSIGN_OR_RETURN(const std::string text, value->Text());
  const std::optional<tensor::Transform> transform =
      tensor::ParseTransform(text);
  if (transform && *transform != tensor::Transform::kNone) return *transform;
  return value->Fail(absl::StrCat(
      "\"", text, "\" is unknown; known are neg_exp, plus_one, minus_one"));
}

}  // namespace

absl::StatusOr<Expression> RuleParser::ParseExpression(
    const YamlValue& value) const {
  WEFT_ASSIGN_OR_RETURN(const std::string text, value.Text());
  return Expression::Parse(text, scope_, value.Where());
}

absl::StatusOr<Template> RuleParser::ParseTemplate(
    const YamlValue& value) const {
  WEFT_ASSIGN_OR_RETURN(const std::string text, value.Text());
  return Template::Parse(text, scope_, value.Where());
}

absl::StatusOr<Template> RuleParser::OptionalTemplate(
    const YamlMap& map, std::string_view key) const {
  const std::optional<YamlValue> value = map.Find(key);
  if (!value) return Template();
  return ParseTemplate(*value);
}

absl::StatusOr<std::optional<Expression>> RuleParser::OptionalExpression(
    const YamlMap& map, std::string_view key) const {
  const std::optional<YamlValue> value = map.Find(key);
  if (!value) return std::nullopt;
  WEFT_ASSIGN_OR_RETURN(Expression expression, ParseExpression(*value));
  return std::optional<Expression>(std::move(expression));
}

absl::StatusOr<std::optional<RangeExpression>> RuleParser::OptionalRange(
    const YamlMap& map, std::string_view key) const {
  const std::optional<YamlValue> value = map.Find(key);
  if (!value) return std::nullopt;
  WEFT_ASSIGN_OR_RETURN(const std::string text, value->Text());
  WEFT_ASSIGN_OR_RETURN(RangeExpression range,
                        RangeExpression::Parse(text, scope_, value->Where()));
  return std::optional<RangeExpression>(std::move(range));
}

absl::Status RuleParser::Descend(const YamlValue& value) {
  if (depth_ >= kMaxGroupDepth) return value.Fail("groups are nested too deep");
  if (++num_rules_ > kMaxRules) {
    return value.Fail(absl::StrCat("more than ", kMaxRules, " rules"));
  }
  ++depth_;
  return absl::OkStatus();
}

absl::StatusOr<YamlValue> RuleParser::Definition(const YamlValue& name) const {
  WEFT_ASSIGN_OR_RETURN(const std::string text, name.Text());
  const auto found = definitions_.find(text);
  if (found != definitions_.end()) return found->second;
  return name.Fail(absl::StrCat("nothing is defined under \"", text, "\""));
}

absl::StatusOr<std::optional<YamlValue>> RuleParser::ChildrenOf(
    const YamlMap& map) const {
  const std::optional<YamlValue> use = map.Find("use");
  if (!use) return map.Find("tensors");
  if (map.Has("tensors")) {
    return map.self().Fail("a group has \"tensors\" or \"use\", not both");
  }
  WEFT_ASSIGN_OR_RETURN(YamlValue children, Definition(*use));
  return std::optional<YamlValue>(std::move(children));
}

absl::StatusOr<std::vector<Requirement>> RuleParser::ParseRequirements(
    const YamlValue& list) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<YamlValue> items, list.Items());
  std::vector<Requirement> requirements;
  for (const YamlValue& item : items) {
    WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(item));
    if (const std::optional<YamlValue> use = map.Find("use")) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"use"}));
      WEFT_ASSIGN_OR_RETURN(const YamlValue defined, Definition(*use));
      WEFT_RETURN_IF_ERROR(Descend(item));
      const absl::Cleanup ascend = [this] { --depth_; };
      WEFT_ASSIGN_OR_RETURN(std::vector<Requirement> more,
                            ParseRequirements(defined));
      for (Requirement& one : more) requirements.push_back(std::move(one));
      continue;
    }
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"that", "else"}));
    WEFT_ASSIGN_OR_RETURN(const YamlValue that, map.Get("that"));
    WEFT_ASSIGN_OR_RETURN(const YamlValue otherwise, map.Get("else"));
    Requirement requirement;
    WEFT_ASSIGN_OR_RETURN(requirement.that, ParseExpression(that));
    WEFT_ASSIGN_OR_RETURN(requirement.otherwise, ParseTemplate(otherwise));
    requirements.push_back(std::move(requirement));
  }
  return requirements;
}

absl::StatusOr<std::vector<Let>> RuleParser::ParseLets(
    const YamlValue& mapping) {
  WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(mapping));
  std::vector<Let> lets;
  for (const YamlValue& entry : map.entries()) {
    Let let;
    WEFT_ASSIGN_OR_RETURN(let.value, ParseExpression(entry));
    const absl::StatusOr<int> slot = scope_.Declare(entry.key);
    if (!slot.ok()) return entry.Fail(std::string(slot.status().message()));
    let.slot = *slot;
    lets.push_back(std::move(let));
  }
  return lets;
}

absl::StatusOr<Guard> RuleParser::OpenGuard(const YamlMap& map) {
  Guard guard;
  // `when` decides about the whole loop, so it cannot use the loop variable.
  if (const std::optional<YamlValue> when = map.Find("when")) {
    WEFT_ASSIGN_OR_RETURN(guard.when, ParseExpression(*when));
  }
  if (const std::optional<YamlValue> loop = map.Find("for")) {
    WEFT_ASSIGN_OR_RETURN(guard.loop, OpenLoop(*loop));
  }
  return guard;
}

absl::StatusOr<Loop> RuleParser::OpenLoop(const YamlValue& value) {
  WEFT_ASSIGN_OR_RETURN(const YamlMap variables, YamlMap::Read(value));
  if (variables.entries().size() != 1) {
    return value.Fail("expected one variable and its range");
  }
  const YamlValue& variable = variables.entries().front();
  WEFT_ASSIGN_OR_RETURN(const std::string text, variable.Text());
  Loop result;
  result.where = variable.Where();
  WEFT_ASSIGN_OR_RETURN(result.values,
                        ListExpression::Parse(text, scope_, result.where));
  const absl::StatusOr<int> slot = scope_.Declare(variable.key);
  if (!slot.ok()) return variable.Fail(std::string(slot.status().message()));
  result.slot = *slot;
  return result;
}

absl::StatusOr<std::vector<Let>> RuleParser::OptionalLets(const YamlMap& map) {
  const std::optional<YamlValue> lets = map.Find("let");
  if (!lets) return std::vector<Let>();
  return ParseLets(*lets);
}

absl::StatusOr<std::vector<LogicalRule>> RuleParser::ParseLogical(
    const YamlValue& list, bool with_shapes) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<YamlValue> items, list.Items());
  std::vector<LogicalRule> rules;
  for (const YamlValue& item : items) {
    WEFT_ASSIGN_OR_RETURN(rules.emplace_back(),
                          ParseLogicalRule(item, with_shapes));
  }
  return rules;
}

absl::StatusOr<LogicalRule> RuleParser::ParseLogicalRule(const YamlValue& value,
                                                         bool with_shapes) {
  WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(value));
  WEFT_RETURN_IF_ERROR(Descend(value));
  const absl::Cleanup restore = [this, size = scope_.size()] {
    --depth_;
    scope_.Truncate(size);
  };
  LogicalRule rule;
  rule.where = value.Where();
  WEFT_ASSIGN_OR_RETURN(rule.guard, OpenGuard(map));
  WEFT_ASSIGN_OR_RETURN(const std::optional<YamlValue> children,
                        ChildrenOf(map));
  if (!children) {
    WEFT_RETURN_IF_ERROR(ParseLogicalTensor(map, with_shapes, rule));
    return rule;
  }
  rule.is_group = true;
  WEFT_RETURN_IF_ERROR(map.CheckKeys(
      {"when", "for", "let", "prefix", "tensors", "use", "memory"}));
  WEFT_ASSIGN_OR_RETURN(rule.memory, OptionalYes(map, "memory", true));
  WEFT_ASSIGN_OR_RETURN(rule.lets, OptionalLets(map));
  WEFT_ASSIGN_OR_RETURN(rule.prefix, OptionalTemplate(map, "prefix"));
  WEFT_ASSIGN_OR_RETURN(rule.children, ParseLogical(*children, with_shapes));
  return rule;
}

absl::Status RuleParser::ParseLogicalTensor(const YamlMap& map,
                                            bool with_shapes,
                                            LogicalRule& rule) const {
  WEFT_ASSIGN_OR_RETURN(const YamlValue name, map.Get("name"));
  WEFT_ASSIGN_OR_RETURN(rule.name, ParseTemplate(name));
  if (!with_shapes) {
    WEFT_ASSIGN_OR_RETURN(rule.copy_of, OptionalTemplate(map, "copy_of"));
    return map.CheckKeys({"when", "for", "name", "copy_of"});
  }
  WEFT_RETURN_IF_ERROR(map.CheckKeys(
      {"when", "for", "name", "shape", "tp", "dtype", "quant", "shard"}));
  WEFT_ASSIGN_OR_RETURN(rule.dtype, OptionalDType(map));
  WEFT_ASSIGN_OR_RETURN(rule.quant, OptionalYes(map, "quant", false));
  WEFT_ASSIGN_OR_RETURN(rule.shard, OptionalYes(map, "shard", true));
  WEFT_ASSIGN_OR_RETURN(const YamlValue shape, map.Get("shape"));
  WEFT_ASSIGN_OR_RETURN(const std::vector<YamlValue> extents, shape.Items());
  for (const YamlValue& extent : extents) {
    WEFT_ASSIGN_OR_RETURN(rule.shape.emplace_back(), ParseExpression(extent));
  }
  if (const std::optional<YamlValue> tp = map.Find("tp")) {
    WEFT_ASSIGN_OR_RETURN(rule.tp, ParseTpCut(*tp));
  }
  const std::size_t min_rank = rule.tp == TpCut::kColumns ? 2 : 1;
  if (rule.shape.size() < min_rank) {
    return shape.Fail(absl::StrCat("expected ", min_rank, " or more extents"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StoredRule>> RuleParser::ParseStored(
    const YamlValue& list) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<YamlValue> items, list.Items());
  std::vector<StoredRule> rules;
  for (const YamlValue& item : items) {
    WEFT_ASSIGN_OR_RETURN(rules.emplace_back(), ParseStoredRule(item));
  }
  return rules;
}

absl::StatusOr<StoredRule> RuleParser::ParseStoredRule(const YamlValue& value) {
  WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(value));
  WEFT_RETURN_IF_ERROR(Descend(value));
  const absl::Cleanup restore = [this, size = scope_.size()] {
    --depth_;
    scope_.Truncate(size);
  };
  StoredRule rule;
  rule.where = value.Where();
  WEFT_ASSIGN_OR_RETURN(rule.guard, OpenGuard(map));
  WEFT_ASSIGN_OR_RETURN(const std::optional<YamlValue> children,
                        ChildrenOf(map));
  if (!children) {
    WEFT_RETURN_IF_ERROR(ParseStoredTensor(map, rule));
    return rule;
  }
  rule.is_group = true;
  WEFT_RETURN_IF_ERROR(map.CheckKeys(
      {"when", "for", "let", "prefix", "of_prefix", "tensors", "use"}));
  WEFT_ASSIGN_OR_RETURN(rule.lets, OptionalLets(map));
  WEFT_ASSIGN_OR_RETURN(rule.prefix, OptionalTemplate(map, "prefix"));
  WEFT_ASSIGN_OR_RETURN(rule.of_prefix, OptionalTemplate(map, "of_prefix"));
  WEFT_ASSIGN_OR_RETURN(rule.children, ParseStored(*children));
  return rule;
}

absl::Status RuleParser::ParseStoredTensor(const YamlMap& map,
                                           StoredRule& rule) {
  WEFT_ASSIGN_OR_RETURN(const YamlValue name, map.Get("name"));
  WEFT_ASSIGN_OR_RETURN(rule.name, ParseTemplate(name));
  // The cut of a stack is one for all entries, so it comes before the variable.
  WEFT_ASSIGN_OR_RETURN(rule.cut, OptionalRange(map, "cut"));
  if (const std::optional<YamlValue> stack = map.Find("stack")) {
    WEFT_ASSIGN_OR_RETURN(rule.stack, OpenLoop(*stack));
  }
  WEFT_ASSIGN_OR_RETURN(rule.dtype, OptionalDType(map));
  WEFT_ASSIGN_OR_RETURN(rule.transform, OptionalTransform(map));
  WEFT_ASSIGN_OR_RETURN(rule.quant, OptionalYes(map, "quant", false));
  return ParseContent(map, rule);
}

absl::Status RuleParser::ParseContent(const YamlMap& map, StoredRule& rule) {
  if (const std::optional<YamlValue> concat = map.Find("concat")) {
    WEFT_RETURN_IF_ERROR(
        map.CheckKeys({"when", "for", "name", "stack", "concat", "cut", "dtype",
                       "transform", "quant"}));
    WEFT_ASSIGN_OR_RETURN(rule.parts, ParseParts(*concat));
    return absl::OkStatus();
  }
  if (!map.Has("of")) {
    return map.self().Fail("a stored tensor needs \"of\" or \"concat\"");
  }
  if (rule.stack) {
    WEFT_RETURN_IF_ERROR(
        map.CheckKeys({"when", "for", "name", "stack", "of", "index",
                       "transpose", "rows", "columns", "deinterleave", "unit",
                       "cut", "dtype", "transform", "quant"}));
  } else {
    WEFT_RETURN_IF_ERROR(map.CheckKeys(
        {"when", "for", "name", "of", "index", "transpose", "rows", "columns",
         "deinterleave", "unit", "dtype", "transform", "quant"}));
  }
  PartRule part;
  part.where = map.self().Where();
  WEFT_RETURN_IF_ERROR(ParseSource(map, part));
  rule.parts.push_back(std::move(part));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PartRule>> RuleParser::ParseParts(
    const YamlValue& list) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<YamlValue> items, list.Items());
  std::vector<PartRule> parts;
  for (const YamlValue& item : items) {
    WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(item));
    WEFT_ASSIGN_OR_RETURN(parts.emplace_back(), ParsePart(map));
  }
  return parts;
}

absl::StatusOr<PartRule> RuleParser::ParsePart(const YamlMap& map) {
  if (depth_ >= kMaxGroupDepth) {
    return map.self().Fail("parts are nested too deep");
  }
  ++depth_;
  const absl::Cleanup restore = [this, size = scope_.size()] {
    --depth_;
    scope_.Truncate(size);
  };
  PartRule part;
  part.where = map.self().Where();
  WEFT_ASSIGN_OR_RETURN(part.guard, OpenGuard(map));
  if (const std::optional<YamlValue> concat = map.Find("concat")) {
    part.is_group = true;
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"when", "for", "concat"}));
    WEFT_ASSIGN_OR_RETURN(part.children, ParseParts(*concat));
  } else if (const std::optional<YamlValue> zeros = map.Find("zeros")) {
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"when", "for", "zeros", "columns"}));
    WEFT_ASSIGN_OR_RETURN(part.zero_rows, ParseExpression(*zeros));
    WEFT_ASSIGN_OR_RETURN(part.zero_columns,
                          OptionalExpression(map, "columns"));
  } else if (map.Has("of")) {
    WEFT_RETURN_IF_ERROR(
        map.CheckKeys({"when", "for", "of", "index", "transpose", "rows",
                       "columns", "deinterleave", "unit"}));
    WEFT_RETURN_IF_ERROR(ParseSource(map, part));
  } else {
    return map.self().Fail("a part needs \"of\", \"zeros\" or \"concat\"");
  }
  return part;
}

absl::Status RuleParser::ParseSource(const YamlMap& map, PartRule& part) const {
  WEFT_ASSIGN_OR_RETURN(const YamlValue of, map.Get("of"));
  WEFT_ASSIGN_OR_RETURN(part.of, ParseTemplate(of));
  WEFT_ASSIGN_OR_RETURN(part.index, OptionalExpression(map, "index"));
  WEFT_ASSIGN_OR_RETURN(part.transpose, OptionalYes(map, "transpose", false));
  WEFT_ASSIGN_OR_RETURN(part.ways, OptionalExpression(map, "deinterleave"));
  WEFT_ASSIGN_OR_RETURN(part.unit, OptionalExpression(map, "unit"));
  if (part.unit && !part.ways) {
    return map.self().Fail("\"unit\" is one of \"deinterleave\"");
  }
  WEFT_ASSIGN_OR_RETURN(part.rows, OptionalRange(map, "rows"));
  WEFT_ASSIGN_OR_RETURN(part.columns, OptionalRange(map, "columns"));
  return absl::OkStatus();
}

}  // namespace weft::recipe
