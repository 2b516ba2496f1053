#include "weft/recipe/layout_spec.h"

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "weft/base/status.h"
#include "weft/recipe/expert_placement.h"

namespace weft::recipe {
namespace {

// What a key takes. Degrees default to 1, and kDegreeOfTp to that of tp; counts
// have no default, so that being given is what matters; words default to the
// first of `words`, texts to none. A file is read when the spec is parsed.
enum class KeyKind { kDegree, kDegreeOfTp, kCount, kWord, kText, kFile };

struct KeyRule {
  std::string_view name;
  KeyKind kind = KeyKind::kDegree;
  std::vector<std::string_view> words = {};
};

struct FrameworkRule {
  Framework framework;
  std::string_view name;
  std::vector<KeyRule> keys;  // in canonical order
};

std::vector<FrameworkRule> MakeFrameworkRules() {
  const KeyRule dtype{"dtype", KeyKind::kWord, {"auto", "bf16", "f16", "f32"}};
  const KeyRule quant{"quant",
                      KeyKind::kWord,
                      {"none", "fp8-block", "fp8-channel", "fp8-tensor"}};
  // Of a trainer: by which rule; of an engine: also in which form.
  const KeyRule rule{"scales", KeyKind::kWord, {"f32", "f32-pow2"}};
  const KeyRule scales{
      "scales", KeyKind::kWord, {"f32", "f32-pow2", "ue8m0", "ue8m0-packed"}};
  const KeyRule names{"names", KeyKind::kWord, {"memory", "hf"}};
  const KeyRule impl{"impl", KeyKind::kWord, {"te", "local"}};
  const KeyRule experts{"experts", KeyKind::kWord, {"grouped", "sequential"}};
  const KeyRule mla{"mla", KeyKind::kWord, {"split", "fused"}};
  const KeyRule mtp{
      "mtp", KeyKind::kWord, {"model_layer", "transformer_layer"}};
  const KeyRule in_split{"embedding_in_split", KeyKind::kWord, {"0", "1"}};
  const KeyRule loss_in_split{"loss_in_split", KeyKind::kWord, {"0", "1"}};
  const KeyRule layout{"layout", KeyKind::kText};
  const KeyRule placement{
      "placement", KeyKind::kWord, {"linear", "round_robin"}};
  const KeyRule redundant{"redundant", KeyKind::kCount};
  const KeyRule eplb{"eplb", KeyKind::kFile};
  const KeyRule shared_fusion{"shared_fusion", KeyKind::kWord, {"on", "off"}};
  const KeyRule tp{"tp"}, pp{"pp"}, vpp{"vpp"}, cp{"cp"}, dp{"dp"}, ep{"ep"};
  const KeyRule shard{"shard"}, replicate{"replicate"};
  const KeyRule etp{"etp", KeyKind::kDegreeOfTp};
  const KeyRule first{"first", KeyKind::kCount}, last{"last", KeyKind::kCount};
  const KeyRule vocab_divisor{"vocab_divisor", KeyKind::kCount};
  return {
      {Framework::kHf, "hf", {quant, rule, dtype}},
      {Framework::kFsdp,
       "fsdp",
       {shard, replicate, tp, ep, names, quant, rule, dtype}},
      {Framework::kMegatron,
       "megatron",
       {tp,
        pp,
        vpp,
        cp,
        dp,
        ep,
        etp,
        first,
        last,
        in_split,
        loss_in_split,
        layout,
        vocab_divisor,
        impl,
        experts,
        mla,
        mtp,
        quant,
        rule,
        dtype}},
      {Framework::kVllm,
       "vllm",
       {tp, pp, ep, dp, placement, redundant, eplb, quant, scales, dtype}},
      {Framework::kSglang,
       "sglang",
       {tp, pp, ep, dp, redundant, eplb, shared_fusion, quant, scales, dtype}}};
}

const std::vector<FrameworkRule>& FrameworkRules() {
  static const auto* const kRules =
      new std::vector<FrameworkRule>(MakeFrameworkRules());
  return *kRules;
}

const FrameworkRule& RuleOf(Framework framework) {
  for (const FrameworkRule& rule : FrameworkRules()) {
    if (rule.framework == framework) return rule;
  }
  return FrameworkRules().front();
}

absl::StatusOr<const FrameworkRule*> FindFramework(std::string_view name) {
  std::vector<std::string_view> known;
  for (const FrameworkRule& rule : FrameworkRules()) {
    if (rule.name == name) return &rule;
    known.push_back(rule.name);
  }
  const std::string list = absl::StrJoin(
      known, ", ",
      [](std::string* out, std::string_view word) { out->append(word); });
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown framework \"", std::string(name), "\"; known are ", list));
}

absl::StatusOr<const KeyRule*> FindKey(const FrameworkRule& framework,
                                       std::string_view name) {
  std::vector<std::string> known;
  for (const KeyRule& key : framework.keys) {
    if (key.name == name) return &key;
    known.emplace_back(key.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown key \"", std::string(name), "\" of ",
      std::string(framework.name), "; known are ", absl::StrJoin(known, ", ")));
}

absl::Status AddNumber(const KeyRule& key, std::string_view value,
                       LayoutSpec& spec) {
  int64_t number = 0;
  // SimpleAtoi takes signs and spaces; a spec does not.
  const bool digits_only =
      !value.empty() &&
      value.find_first_not_of("0123456789") == std::string_view::npos;
  if (!digits_only || !absl::SimpleAtoi(std::string(value), &number) ||
      number < 1) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(key.name), "=",
                                                   std::string(value),
                                                   " is no positive integer"));
  }
  spec.numbers[std::string(key.name)] = number;
  return absl::OkStatus();
}

absl::Status AddWord(const KeyRule& key, std::string_view value,
                     LayoutSpec& spec) {
  std::vector<std::string> known;
  for (const std::string_view word : key.words) {
    if (word == value) {
      spec.words[std::string(key.name)] = std::string(value);
      return absl::OkStatus();
    }
    known.emplace_back(word);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(key.name), "=", std::string(value),
                   " is unknown; known are ", absl::StrJoin(known, ", ")));
}

absl::Status AddText(const KeyRule& key, std::string_view value,
                     LayoutSpec& spec) {
  if (value.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(key.name), "= is empty"));
  }
  spec.words[std::string(key.name)] = std::string(value);
  return absl::OkStatus();
}

// FILE, or FILE@HASH if what it says must be that.
absl::Status AddExpertTable(const KeyRule& key, std::string_view value,
                            LayoutSpec& spec) {
  const auto at = value.rfind('@');
  const std::string path(value.substr(0, at));
  WEFT_ASSIGN_OR_RETURN(spec.experts, ReadExpertTable(path));
  const std::string hash(at == std::string_view::npos ? std::string_view()
                                                      : value.substr(at + 1));
  if (at != std::string_view::npos && hash != spec.experts->hash) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(key.name), "=", path, " says ",
                     spec.experts->hash, " now, not ", hash));
  }
  spec.words[std::string(key.name)] =
      absl::StrCat(path, "@", spec.experts->hash);
  return absl::OkStatus();
}

absl::Status AddItem(const FrameworkRule& framework, std::string_view item,
                     LayoutSpec& spec) {
  const auto equals = item.find('=');
  if (equals == std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", std::string(item), "\" is not key=value"));
  }
  const std::string name(item.substr(0, equals));
  const std::string_view value = item.substr(equals + 1);
  WEFT_ASSIGN_OR_RETURN(const KeyRule* const key, FindKey(framework, name));
  if (spec.numbers.count(name) != 0 || spec.words.count(name) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("key ", name, " is given twice"));
  }
  if (key->kind == KeyKind::kWord) return AddWord(*key, value, spec);
  if (key->kind == KeyKind::kText) return AddText(*key, value, spec);
  if (key->kind == KeyKind::kFile) return AddExpertTable(*key, value, spec);
  return AddNumber(*key, value, spec);
}

}  // namespace

int64_t LayoutSpec::Number(std::string_view key, int64_t default_value) const {
  const auto found = numbers.find(std::string(key));
  return found == numbers.end() ? default_value : found->second;
}

std::string LayoutSpec::Word(std::string_view key,
                             std::string_view default_value) const {
  const auto found = words.find(std::string(key));
  return found == words.end() ? std::string(default_value) : found->second;
}

std::string LayoutSpec::ToString() const {
  const FrameworkRule& rule = RuleOf(framework);
  std::string text(rule.name);
  char separator = ':';
  const auto append = [&](std::string_view key, const std::string& value) {
    absl::StrAppend(&text, std::string(1, separator), std::string(key), "=",
                    value);
    separator = ',';
  };
  for (const KeyRule& key : rule.keys) {
    if (key.kind == KeyKind::kWord) {
      const std::string word = Word(key.name, key.words.front());
      if (word != key.words.front()) append(key.name, word);
    } else if (key.kind == KeyKind::kText || key.kind == KeyKind::kFile) {
      const std::string word = Word(key.name, "");
      if (!word.empty()) append(key.name, word);
    } else {
      // The default is left out; a count is a choice whatever it is.
      int64_t absent = key.kind == KeyKind::kCount ? 0 : 1;
      if (key.kind == KeyKind::kDegreeOfTp) absent = Number("tp", 1);
      const int64_t number = Number(key.name, absent);
      if (number != absent) append(key.name, absl::StrCat(number));
    }
  }
  return text;
}

absl::StatusOr<LayoutSpec> ParseLayoutSpec(std::string_view text) {
  const auto parse = [&]() -> absl::StatusOr<LayoutSpec> {
    const auto colon = text.find(':');
    WEFT_ASSIGN_OR_RETURN(const FrameworkRule* const framework,
                          FindFramework(text.substr(0, colon)));
    LayoutSpec spec;
    spec.framework = framework->framework;
    if (colon != std::string_view::npos) {
      const std::string items(text.substr(colon + 1));
      for (const std::string& item :
           std::vector<std::string>(absl::StrSplit(items, ','))) {
        WEFT_RETURN_IF_ERROR(AddItem(*framework, item, spec));
      }
    }
    return spec;
  };
  absl::StatusOr<LayoutSpec> spec = parse();
  if (!spec.ok()) {
    return base::Annotate(spec.status(),
                          absl::StrCat("layout \"", std::string(text), "\""));
  }
  return spec;
}

}  // namespace weft::recipe
