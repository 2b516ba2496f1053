#include "weft/recipe/recipe_parser.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/framework_mesh.h"
#include "weft/recipe/rule_parser.h"
#include "weft/recipe/table_expander.h"
#include "weft/recipe/yaml_reader_internal.h"

namespace weft::recipe {
namespace {

constexpr std::string_view kLanguageVersion = "1";

// What memory holds is described whole; how ranks cut it is a rule of theirs.
absl::Status CheckWhole(const std::vector<StoredRule>& rules) {
  for (const StoredRule& rule : rules) {
    if (rule.cut) {
      return FailAt(rule.where, "a tensor of \"memory\" is whole: no \"cut\"");
    }
    WEFT_RETURN_IF_ERROR(CheckWhole(rule.children));
  }
  return absl::OkStatus();
}

class FileParser {
 public:
  FileParser(YamlMap own, std::optional<YamlMap> included)
      : own_(std::move(own)), included_(std::move(included)) {}

  absl::StatusOr<RecipeTables> Parse() {
    RecipeTables tables;
    tables.file = own_.self().file;
    WEFT_RETURN_IF_ERROR(ParseHead(tables));
    WEFT_RETURN_IF_ERROR(ParseConfig(tables));
    RuleParser rules(scope_);
    WEFT_ASSIGN_OR_RETURN(const YamlValue layers, Section("layers"));
    WEFT_ASSIGN_OR_RETURN(tables.layers, rules.ParseExpression(layers));
    WEFT_RETURN_IF_ERROR(ParseRequirements(rules, tables));
    WEFT_RETURN_IF_ERROR(ParseCheckpoint(rules, tables));
    WEFT_ASSIGN_OR_RETURN(tables.megatron,
                          ParseFramework("megatron", Framework::kMegatron));
    WEFT_ASSIGN_OR_RETURN(tables.vllm,
                          ParseFramework("vllm", Framework::kVllm));
    return tables;
  }

 private:
  // A section of the file itself, else of the file that it includes.
  std::optional<YamlValue> FindSection(std::string_view key) const {
    if (std::optional<YamlValue> own = own_.Find(key)) return own;
    return included_ ? included_->Find(key) : std::nullopt;
  }

  absl::StatusOr<YamlValue> Section(std::string_view key) const {
    if (std::optional<YamlValue> found = FindSection(key)) {
      return *std::move(found);
    }
    return own_.Get(key);
  }

  absl::Status ParseHead(RecipeTables& tables) const {
    WEFT_ASSIGN_OR_RETURN(const YamlValue version, own_.Get("recipe"));
    WEFT_ASSIGN_OR_RETURN(const std::string text, version.Text());
    if (text != kLanguageVersion) {
      return version.Fail(absl::StrCat(
          "version ", text, " of the recipe language is not supported, only ",
          std::string(kLanguageVersion)));
    }
    WEFT_ASSIGN_OR_RETURN(const YamlValue family, own_.Get("family"));
    WEFT_ASSIGN_OR_RETURN(tables.family, family.Text());
    WEFT_ASSIGN_OR_RETURN(const YamlValue names, own_.Get("architectures"));
    WEFT_ASSIGN_OR_RETURN(tables.architectures, names.Texts());
    if (tables.architectures.empty()) return names.Fail("the list is empty");
    return absl::OkStatus();
  }

  // The file's own symbols, then those of the included file that it does not
  // define: an include can give what holds unless a file says otherwise.
  absl::Status ParseConfig(RecipeTables& tables) {
    std::vector<YamlValue> entries;
    absl::flat_hash_set<std::string> own_names;
    if (const std::optional<YamlValue> section = own_.Find("config")) {
      WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(*section));
      entries = map.entries();
      for (const YamlValue& entry : entries) own_names.insert(entry.key);
    }
    const std::optional<YamlValue> included =
        included_ ? included_->Find("config") : std::nullopt;
    if (included) {
      WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(*included));
      for (const YamlValue& entry : map.entries()) {
        if (!own_names.contains(entry.key)) entries.push_back(entry);
      }
    }
    if (!included && !own_.Has("config")) return own_.Get("config").status();
    for (const YamlValue& entry : entries) {
      WEFT_RETURN_IF_ERROR(DeclareSymbol(entry, tables));
    }
    return absl::OkStatus();
  }

  // Texts and lists have no slot; the rest is parsed before its own name is
  // known, so that it cannot use itself.
  absl::Status DeclareSymbol(const YamlValue& entry, RecipeTables& tables) {
    WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(entry));
    absl::Status declared;
    if (const std::optional<YamlValue> text = map.Find("text")) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"text"}));
      WEFT_ASSIGN_OR_RETURN(std::string value, text->Text());
      declared = scope_.DeclareText(entry.key, std::move(value));
    } else if (const std::optional<YamlValue> list = map.Find("list")) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"list"}));
      WEFT_ASSIGN_OR_RETURN(std::string key, list->Text());
      tables.lists.push_back({std::move(key)});
      declared = scope_.DeclareList(entry.key);
    } else {
      WEFT_ASSIGN_OR_RETURN(ConfigSymbol symbol, ParseConfigSymbol(map));
      declared = scope_.Declare(entry.key).status();
      tables.config.push_back(std::move(symbol));
    }
    if (!declared.ok()) return entry.Fail(std::string(declared.message()));
    return absl::OkStatus();
  }

  // One field, or a list of its names.
  static absl::Status ParseKeys(const YamlValue& field, ConfigSymbol& symbol) {
    if (!field.IsList()) {
      WEFT_ASSIGN_OR_RETURN(symbol.key, field.Text());
      return absl::OkStatus();
    }
    WEFT_ASSIGN_OR_RETURN(symbol.other_keys, field.Texts());
    if (symbol.other_keys.empty()) return field.Fail("the list is empty");
    symbol.key = symbol.other_keys.front();
    symbol.other_keys.erase(symbol.other_keys.begin());
    return absl::OkStatus();
  }

  // {key: FIELD, default: EXPR}, {flag: FIELD, default: EXPR}, {value: EXPR}.
  absl::StatusOr<ConfigSymbol> ParseConfigSymbol(const YamlMap& map) {
    const RuleParser rules(scope_);
    ConfigSymbol symbol;
    if (const std::optional<YamlValue> value = map.Find("value")) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"value"}));
      symbol.kind = ConfigSymbol::Kind::kValue;
      WEFT_ASSIGN_OR_RETURN(symbol.value, rules.ParseExpression(*value));
      return symbol;
    }
    std::optional<YamlValue> field = map.Find("key");
    if (field) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"key", "default"}));
    } else {
      WEFT_RETURN_IF_ERROR(
          map.CheckKeys({"key", "flag", "value", "text", "list", "default"}));
      field = map.Find("flag");
      if (!field) {
        return map.self().Fail("needs one of key, flag, value, text, list");
      }
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"flag", "default"}));
      symbol.kind = ConfigSymbol::Kind::kFlag;
    }
    WEFT_RETURN_IF_ERROR(ParseKeys(*field, symbol));
    if (const std::optional<YamlValue> value = map.Find("default")) {
      WEFT_ASSIGN_OR_RETURN(symbol.value, rules.ParseExpression(*value));
    }
    return symbol;
  }

  // The one section that adds up: the included file's and the file's own.
  absl::Status ParseRequirements(const RuleParser& rules,
                                 RecipeTables& tables) const {
    std::vector<YamlValue> lists;
    if (included_) {
      if (auto found = included_->Find("require")) lists.push_back(*found);
    }
    if (auto found = own_.Find("require")) lists.push_back(*found);
    for (const YamlValue& list : lists) {
      WEFT_ASSIGN_OR_RETURN(std::vector<Requirement> requirements,
                            rules.ParseRequirements(list));
      for (Requirement& requirement : requirements) {
        tables.requirements.push_back(std::move(requirement));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ParseCheckpoint(RuleParser& rules, RecipeTables& tables) const {
    WEFT_ASSIGN_OR_RETURN(const YamlValue section, Section("checkpoint"));
    WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(section));
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"tensors", "ignore", "memory"}));
    WEFT_ASSIGN_OR_RETURN(const YamlValue tensors, map.Get("tensors"));
    WEFT_ASSIGN_OR_RETURN(tables.checkpoint,
                          rules.ParseLogical(tensors, /*with_shapes=*/true));
    if (const std::optional<YamlValue> ignore = map.Find("ignore")) {
      WEFT_ASSIGN_OR_RETURN(tables.ignore,
                            rules.ParseLogical(*ignore, /*with_shapes=*/false));
    }
    if (const std::optional<YamlValue> memory = map.Find("memory")) {
      WEFT_ASSIGN_OR_RETURN(tables.memory, rules.ParseStored(*memory));
      WEFT_RETURN_IF_ERROR(CheckWhole(tables.memory));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<FrameworkTable>> ParseFramework(
      std::string_view key, Framework framework) {
    const std::optional<YamlValue> section = FindSection(key);
    if (!section) return std::nullopt;
    Scope scope = scope_;
    for (const std::string& symbol : FrameworkSymbols(framework)) {
      const absl::StatusOr<int> slot = scope.Declare(symbol);
      if (!slot.ok())
        return section->Fail(std::string(slot.status().message()));
    }
    WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(*section));
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"require", "let", "tensors"}));
    RuleParser rules(scope);
    FrameworkTable table;
    if (const std::optional<YamlValue> require = map.Find("require")) {
      WEFT_ASSIGN_OR_RETURN(table.requirements,
                            rules.ParseRequirements(*require));
    }
    if (const std::optional<YamlValue> lets = map.Find("let")) {
      WEFT_ASSIGN_OR_RETURN(table.lets, rules.ParseLets(*lets));
    }
    WEFT_ASSIGN_OR_RETURN(const YamlValue tensors, map.Get("tensors"));
    WEFT_ASSIGN_OR_RETURN(table.tensors, rules.ParseStored(tensors));
    return std::optional<FrameworkTable>(std::move(table));
  }

  YamlMap own_;
  std::optional<YamlMap> included_;
  Scope scope_;
};

absl::StatusOr<std::optional<YamlMap>> ReadIncluded(
    const YamlMap& own, const IncludeReader& include) {
  const std::optional<YamlValue> entry = own.Find("include");
  if (!entry) return std::nullopt;
  WEFT_ASSIGN_OR_RETURN(const std::string name, entry->Text());
  const absl::StatusOr<std::string> text = include(name);
  if (!text.ok()) return entry->Fail(std::string(text.status().message()));
  WEFT_ASSIGN_OR_RETURN(const YamlValue root, ParseYaml(*text, name));
  WEFT_ASSIGN_OR_RETURN(YamlMap map, YamlMap::Read(root));
  WEFT_RETURN_IF_ERROR(map.CheckKeys(
      {"config", "require", "layers", "checkpoint", "megatron", "vllm"}));
  return std::optional<YamlMap>(std::move(map));
}

}  // namespace

absl::StatusOr<RecipeTables> ParseRecipeTables(std::string_view yaml_text,
                                               std::string_view file_name,
                                               const IncludeReader& include) {
  WEFT_ASSIGN_OR_RETURN(const YamlValue root, ParseYaml(yaml_text, file_name));
  WEFT_ASSIGN_OR_RETURN(YamlMap own, YamlMap::Read(root));
  WEFT_RETURN_IF_ERROR(
      own.CheckKeys({"recipe", "family", "architectures", "include", "config",
                     "require", "layers", "checkpoint", "megatron", "vllm"}));
  WEFT_ASSIGN_OR_RETURN(std::optional<YamlMap> included,
                        ReadIncluded(own, include));
  return FileParser(std::move(own), std::move(included)).Parse();
}

}  // namespace weft::recipe
