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
  FileParser(YamlMap own, std::vector<YamlMap> included)
      : own_(std::move(own)), included_(std::move(included)) {}

  absl::StatusOr<RecipeTables> Parse() {
    RecipeTables tables;
    tables.file = own_.self().file;
    WEFT_RETURN_IF_ERROR(ParseHead(tables));
    WEFT_RETURN_IF_ERROR(ReadDefinitions());
    WEFT_RETURN_IF_ERROR(ParseConfig(tables));
    RuleParser rules(scope_, definitions_);
    WEFT_ASSIGN_OR_RETURN(const YamlValue layers, Section("layers"));
    WEFT_ASSIGN_OR_RETURN(tables.layers, rules.ParseExpression(layers));
    WEFT_RETURN_IF_ERROR(ParseRequirements(rules, tables));
    WEFT_RETURN_IF_ERROR(ParseCheckpoint(rules, tables));
    WEFT_ASSIGN_OR_RETURN(tables.megatron,
                          ParseFramework("megatron", Framework::kMegatron));
    WEFT_ASSIGN_OR_RETURN(tables.vllm,
                          ParseFramework("vllm", Framework::kVllm));
    WEFT_ASSIGN_OR_RETURN(tables.sglang,
                          ParseFramework("sglang", Framework::kSglang));
    return tables;
  }

 private:
  // A section of the file itself, else of the first that it includes and that
  // has it.
  std::optional<YamlValue> FindSection(std::string_view key) const {
    if (std::optional<YamlValue> own = own_.Find(key)) return own;
    for (const YamlMap& included : included_) {
      if (std::optional<YamlValue> found = included.Find(key)) return found;
    }
    return std::nullopt;
  }

  // The file's own first: a definition that comes later does not replace one.
  absl::Status ReadDefinitions() {
    std::vector<const YamlMap*> files{&own_};
    for (const YamlMap& included : included_) files.push_back(&included);
    for (const YamlMap* const file : files) {
      const std::optional<YamlValue> section = file->Find("define");
      if (!section) continue;
      WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(*section));
      for (const YamlValue& entry : map.entries()) {
        definitions_.emplace(entry.key, entry);
      }
    }
    return absl::OkStatus();
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

  // The file's own symbols, then those of the included files that are not
  // defined by then: an include can give what holds unless a file says
  // otherwise.
  absl::Status ParseConfig(RecipeTables& tables) {
    std::vector<YamlValue> sections;
    if (const auto own = own_.Find("config")) sections.push_back(*own);
    for (const YamlMap& included : included_) {
      if (const auto found = included.Find("config")) {
        sections.push_back(*found);
      }
    }
    if (sections.empty()) return own_.Get("config").status();
    absl::flat_hash_set<std::string> known;
    for (const YamlValue& section : sections) {
      WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(section));
      for (const YamlValue& entry : map.entries()) {
        if (!known.insert(entry.key).second) continue;
        WEFT_RETURN_IF_ERROR(DeclareSymbol(entry, tables));
      }
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
      ConfigList symbol;
      if (list->IsList()) {
        WEFT_ASSIGN_OR_RETURN(symbol.keys, list->Texts());
      } else {
        WEFT_ASSIGN_OR_RETURN(symbol.keys.emplace_back(), list->Text());
      }
      tables.lists.push_back(std::move(symbol));
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

  // {key: FIELD, default: EXPR}, the same with count or flag, {value: EXPR},
  // {present: NAME}.
  absl::StatusOr<ConfigSymbol> ParseConfigSymbol(const YamlMap& map) {
    const RuleParser rules(scope_, definitions_);
    ConfigSymbol symbol;
    if (const std::optional<YamlValue> value = map.Find("value")) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"value"}));
      symbol.kind = ConfigSymbol::Kind::kValue;
      WEFT_ASSIGN_OR_RETURN(symbol.value, rules.ParseExpression(*value));
      return symbol;
    }
    if (const std::optional<YamlValue> witness = map.Find("present")) {
      WEFT_RETURN_IF_ERROR(map.CheckKeys({"present"}));
      symbol.kind = ConfigSymbol::Kind::kPresent;
      WEFT_ASSIGN_OR_RETURN(symbol.witness, rules.ParseTemplate(*witness));
      return symbol;
    }
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"key", "count", "flag", "value", "text",
                                        "list", "present", "default"}));
    std::optional<YamlValue> field;
    for (const auto& [word, kind] :
         {std::pair("key", ConfigSymbol::Kind::kNumber),
          std::pair("count", ConfigSymbol::Kind::kCount),
          std::pair("flag", ConfigSymbol::Kind::kFlag)}) {
      field = map.Find(word);
      if (!field) continue;
      WEFT_RETURN_IF_ERROR(map.CheckKeys({word, "default"}));
      symbol.kind = kind;
      break;
    }
    if (!field) {
      return map.self().Fail(
          "needs one of key, count, flag, value, text, list, present");
    }
    WEFT_RETURN_IF_ERROR(ParseKeys(*field, symbol));
    if (const std::optional<YamlValue> value = map.Find("default")) {
      WEFT_ASSIGN_OR_RETURN(symbol.value, rules.ParseExpression(*value));
    }
    return symbol;
  }

  // The one section that adds up: the included files' and the file's own.
  absl::Status ParseRequirements(RuleParser& rules,
                                 RecipeTables& tables) const {
    std::vector<YamlValue> lists;
    for (const YamlMap& included : included_) {
      if (auto found = included.Find("require")) lists.push_back(*found);
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
    WEFT_RETURN_IF_ERROR(
        map.CheckKeys({"tensors", "ignore", "memory_require", "memory"}));
    WEFT_ASSIGN_OR_RETURN(const YamlValue tensors, map.Get("tensors"));
    WEFT_ASSIGN_OR_RETURN(tables.checkpoint,
                          rules.ParseLogical(tensors, /*with_shapes=*/true));
    if (const std::optional<YamlValue> ignore = map.Find("ignore")) {
      WEFT_ASSIGN_OR_RETURN(tables.ignore,
                            rules.ParseLogical(*ignore, /*with_shapes=*/false));
    }
    if (const std::optional<YamlValue> require = map.Find("memory_require")) {
      Scope scope = scope_;
      WEFT_RETURN_IF_ERROR(DeclareSymbols(*require, Framework::kFsdp, scope));
      RuleParser in_memory(scope, definitions_);
      WEFT_ASSIGN_OR_RETURN(tables.memory_requirements,
                            in_memory.ParseRequirements(*require));
    }
    if (const std::optional<YamlValue> memory = map.Find("memory")) {
      Scope scope = scope_;
      WEFT_RETURN_IF_ERROR(DeclareSymbols(*memory, Framework::kFsdp, scope));
      RuleParser in_memory(scope, definitions_);
      WEFT_ASSIGN_OR_RETURN(tables.memory, in_memory.ParseStored(*memory));
      WEFT_RETURN_IF_ERROR(CheckWhole(tables.memory));
    }
    return absl::OkStatus();
  }

  static absl::Status DeclareSymbols(const YamlValue& section,
                                     Framework framework, Scope& scope) {
    for (const std::string& symbol : FrameworkSymbols(framework)) {
      const absl::Status status = scope.Declare(symbol).status();
      if (!status.ok()) return section.Fail(std::string(status.message()));
    }
    for (const auto& [name, text] : FrameworkTexts(framework)) {
      const absl::Status status = scope.DeclareText(name, text);
      if (!status.ok()) return section.Fail(std::string(status.message()));
    }
    return absl::OkStatus();
  }

  // The word "vllm" as a section: vLLM's table, read with the symbols of this
  // framework.
  absl::StatusOr<std::optional<FrameworkTable>> ParseFramework(
      std::string_view key, Framework framework) {
    std::optional<YamlValue> section = FindSection(key);
    if (!section) return std::nullopt;
    const absl::StatusOr<std::string> other = section->Text();
    if (other.ok()) {
      if (framework != Framework::kSglang || *other != "vllm") {
        return section->Fail(absl::StrCat(
            "\"", *other, "\" is no table; only sglang may say \"vllm\""));
      }
      WEFT_ASSIGN_OR_RETURN(section, Section("vllm"));
    }
    Scope scope = scope_;
    WEFT_RETURN_IF_ERROR(DeclareSymbols(*section, framework, scope));
    WEFT_ASSIGN_OR_RETURN(const YamlMap map, YamlMap::Read(*section));
    WEFT_RETURN_IF_ERROR(map.CheckKeys({"require", "let", "tensors"}));
    RuleParser rules(scope, definitions_);
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
  std::vector<YamlMap> included_;
  Definitions definitions_;
  Scope scope_;
};

absl::StatusOr<std::vector<YamlMap>> ReadIncluded(
    const YamlMap& own, const IncludeReader& include) {
  std::vector<YamlMap> included;
  const std::optional<YamlValue> entry = own.Find("include");
  if (!entry) return included;
  std::vector<std::string> names;
  if (entry->IsList()) {
    WEFT_ASSIGN_OR_RETURN(names, entry->Texts());
  } else {
    WEFT_ASSIGN_OR_RETURN(names.emplace_back(), entry->Text());
  }
  for (const std::string& name : names) {
    const absl::StatusOr<std::string> text = include(name);
    if (!text.ok()) return entry->Fail(std::string(text.status().message()));
    WEFT_ASSIGN_OR_RETURN(const YamlValue root, ParseYaml(*text, name));
    WEFT_ASSIGN_OR_RETURN(YamlMap map, YamlMap::Read(root));
    WEFT_RETURN_IF_ERROR(
        map.CheckKeys({"config", "require", "layers", "define", "checkpoint",
                       "megatron", "vllm", "sglang"}));
    included.push_back(std::move(map));
  }
  return included;
}

}  // namespace

absl::StatusOr<RecipeTables> ParseRecipeTables(std::string_view yaml_text,
                                               std::string_view file_name,
                                               const IncludeReader& include) {
  WEFT_ASSIGN_OR_RETURN(const YamlValue root, ParseYaml(yaml_text, file_name));
  WEFT_ASSIGN_OR_RETURN(YamlMap own, YamlMap::Read(root));
  WEFT_RETURN_IF_ERROR(own.CheckKeys(
      {"recipe", "family", "architectures", "include", "config", "require",
       "layers", "define", "checkpoint", "megatron", "vllm", "sglang"}));
  WEFT_ASSIGN_OR_RETURN(std::vector<YamlMap> included,
                        ReadIncluded(own, include));
  return FileParser(std::move(own), std::move(included)).Parse();
}

}  // namespace weft::recipe
