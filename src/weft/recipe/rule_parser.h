// The lists of rules inside a recipe file: requirements, derived symbols,
// checkpoint tensors, stored tensors. Private to this room.
#ifndef WEFT_RECIPE_RULE_PARSER_H_
#define WEFT_RECIPE_RULE_PARSER_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/recipe/recipe_tables.h"
#include "weft/recipe/yaml_reader_internal.h"

namespace weft::recipe {

// Named lists of rules that `use` puts in place.
using Definitions = std::map<std::string, YamlValue, std::less<>>;

// Parses rules in `scope`, which like `definitions` must outlive the parser;
// loops push and pop their variable there.
class RuleParser {
 public:
  RuleParser(Scope& scope, const Definitions& definitions)
      : scope_(scope), definitions_(definitions) {}

  absl::StatusOr<Expression> ParseExpression(const YamlValue& value) const;
  absl::StatusOr<Template> ParseTemplate(const YamlValue& value) const;
  absl::StatusOr<std::vector<Requirement>> ParseRequirements(
      const YamlValue& list);
  // A mapping of new symbols to expressions; each may use those before it.
  absl::StatusOr<std::vector<Let>> ParseLets(const YamlValue& mapping);
  // `with_shapes`: entries have `shape` and `tp`; else names only.
  absl::StatusOr<std::vector<LogicalRule>> ParseLogical(const YamlValue& list,
                                                        bool with_shapes);
  absl::StatusOr<std::vector<StoredRule>> ParseStored(const YamlValue& list);

 private:
  // The `tensors` of a group, or the definition that it says to `use`; absent
  // for a single tensor.
  absl::StatusOr<std::optional<YamlValue>> ChildrenOf(const YamlMap& map) const;
  absl::StatusOr<YamlValue> Definition(const YamlValue& name) const;
  // kInvalidArgument when groups are nested too deep or there are too many
  // rules in all.
  absl::Status Descend(const YamlValue& value);
  absl::StatusOr<LogicalRule> ParseLogicalRule(const YamlValue& value,
                                               bool with_shapes);
  absl::Status ParseLogicalTensor(const YamlMap& map, bool with_shapes,
                                  LogicalRule& rule) const;
  absl::StatusOr<StoredRule> ParseStoredRule(const YamlValue& value);
  absl::Status ParseStoredTensor(const YamlMap& map, StoredRule& rule);
  absl::StatusOr<std::vector<PartRule>> ParseParts(const YamlValue& list);
  absl::StatusOr<PartRule> ParsePart(const YamlMap& map);
  absl::Status ParseSource(const YamlMap& map, PartRule& part) const;
  // Reads `when` and `for`; the loop variable stays in scope until the caller
  // truncates it.
  absl::StatusOr<Guard> OpenGuard(const YamlMap& map);
  // {VARIABLE: RANGE}; declares the variable.
  absl::StatusOr<Loop> OpenLoop(const YamlValue& value);
  // The `let` of a group, if there is one.
  absl::StatusOr<std::vector<Let>> OptionalLets(const YamlMap& map);
  absl::Status ParseContent(const YamlMap& map, StoredRule& rule);
  absl::StatusOr<std::optional<Expression>> OptionalExpression(
      const YamlMap& map, std::string_view key) const;
  absl::StatusOr<Template> OptionalTemplate(const YamlMap& map,
                                            std::string_view key) const;
  absl::StatusOr<std::optional<RangeExpression>> OptionalRange(
      const YamlMap& map, std::string_view key) const;

  Scope& scope_;
  const Definitions& definitions_;
  int depth_ = 0;
  int num_rules_ = 0;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_RULE_PARSER_H_
