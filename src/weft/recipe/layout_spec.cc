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

namespace weft::recipe {
namespace {

// What a key takes. Degrees default to 1, and kDegreeOfTp to that of tp; counts
// have no default, so that being given is what matters; words default to the
// first of `words`.
enum class KeyKind { kDegree, kDegreeOfTp, kCount, kWord };

struct KeyRule {
  std::string_view name;
  KeyKind kind = KeyKind::kDegree;
  std::vector<std::string_view> words = {};
  // Known to the format; only its default is supported so far.
  bool default_only = false;
};

struct FrameworkRule {
  Framework framework;
  std::string_view name;
  std::vector<KeyRule> keys;  // in canonical order
};

const std::vector<FrameworkRule>& FrameworkRules() {
  static const auto* const kRules = [] {
    const KeyRule dtype{
        "dtype", KeyKind::kWord, {"auto", "bf16", "f16", "f32"}};
    const KeyRule quant{"quant", KeyKind::kWord, {"none", "fp8-block"}, true};
    const KeyRule names{"names", KeyKind::kWord, {"memory", "hf"}};
    const KeyRule impl{"impl", KeyKind::kWord, {"te", "local"}};
    const KeyRule experts{"experts", KeyKind::kWord, {"grouped", "sequential"}};
    const KeyRule tp{"tp"}, pp{"pp"}, cp{"cp"}, dp{"dp"};
    const KeyRule shard{"shard"}, replicate{"replicate"};
    const KeyRule vpp{"vpp", KeyKind::kDegree, {}, true};
    const KeyRule ep{"ep"}, etp{"etp", KeyKind::kDegreeOfTp};
    const KeyRule first{"first", KeyKind::kCount};
    const KeyRule last{"last", KeyKind::kCount};
    const KeyRule vocab_divisor{"vocab_divisor", KeyKind::kCount};
    return new std::vector<FrameworkRule>{
        {Framework::kHf, "hf", {dtype}},
        {Framework::kFsdp, "fsdp", {shard, replicate, tp, names, dtype}},
        {Framework::kMegatron,
         "megatron",
         {tp, pp, vpp, cp, dp, ep, etp, first, last, vocab_divisor, impl,
          experts, dtype}},
        {Framework::kVllm, "vllm", {tp, pp, ep, dp, quant, dtype}}};
  }();
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
  if (name == "sglang") {
    return absl::UnimplementedError(absl::StrCat(
        "framework \"sglang\" is not supported yet; supported are ", list));
  }
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
  return AddNumber(*key, value, spec);
}

// Keys that this release knows by name only must have the value that changes
// nothing.
absl::Status CheckDefaults(const FrameworkRule& framework,
                           const LayoutSpec& spec) {
  for (const KeyRule& key : framework.keys) {
    if (!key.default_only) continue;
    const std::string name(key.name);
    if (key.kind == KeyKind::kWord) {
      const std::string neutral(key.words.front());
      const std::string word = spec.Word(name, neutral);
      if (word == neutral) continue;
      return absl::UnimplementedError(absl::StrCat(
          name, "=", word, " of ", std::string(framework.name),
          " is not supported yet; leave it out or give ", name, "=", neutral));
    }
    const int64_t number = spec.Number(name, 1);
    if (number == 1) continue;
    return absl::UnimplementedError(absl::StrCat(
        name, "=", number, " of ", std::string(framework.name),
        " is not supported yet; leave it out or give ", name, "=1"));
  }
  return absl::OkStatus();
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
    if (key.default_only) continue;
    if (key.kind == KeyKind::kWord) {
      const std::string word = Word(key.name, key.words.front());
      if (word != key.words.front()) append(key.name, word);
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
    WEFT_RETURN_IF_ERROR(CheckDefaults(*framework, spec));
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
