#include <algorithm>
#include <exception>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/status.h"
#include "weft/recipe/yaml_reader_internal.h"
#include "yaml-cpp/eventhandler.h"

namespace weft::recipe {
namespace {

class IgnoreEvents : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// True if something follows the first document. Asked step by step because
// yaml-cpp's LoadAll never ends, and never stops allocating, on a closing
// bracket that nothing opened. Throws what yaml-cpp throws.
bool HasMoreThanOneDocument(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  IgnoreEvents ignore;
  return parser.HandleNextDocument(ignore) && parser.HandleNextDocument(ignore);
}

}  // namespace

std::string YamlValue::Where() const {
  // yaml-cpp counts lines from 0; an undefined mark is -1.
  const int line = node.Mark().line + 1;
  return absl::StrCat(file, ":", line, key.empty() ? "" : ": ", key);
}

absl::Status YamlValue::Fail(std::string_view message) const {
  return absl::InvalidArgumentError(
      absl::StrCat(Where(), ": ", std::string(message)));
}

absl::StatusOr<std::string> YamlValue::Text() const {
  if (!node.IsScalar()) return Fail("expected a single value");
  return node.Scalar();
}

absl::StatusOr<std::vector<YamlValue>> YamlValue::Items() const {
  if (!node.IsSequence()) return Fail("expected a list");
  std::vector<YamlValue> items;
  for (const YAML::Node& item : node) items.push_back({item, file, key});
  return items;
}

absl::StatusOr<std::vector<std::string>> YamlValue::Texts() const {
  WEFT_ASSIGN_OR_RETURN(const std::vector<YamlValue> items, Items());
  std::vector<std::string> texts;
  for (const YamlValue& item : items) {
    WEFT_ASSIGN_OR_RETURN(texts.emplace_back(), item.Text());
  }
  return texts;
}

absl::StatusOr<YamlValue> ParseYaml(std::string_view text,
                                    std::string_view file) {
  const std::string file_name(file);
  try {
    const std::string owned(text);
    if (HasMoreThanOneDocument(owned)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file_name, ": expected one YAML document and nothing after it"));
    }
    return YamlValue{YAML::Load(owned), file_name, ""};
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_name, ":", e.mark.line + 1, ": not valid YAML: ", e.msg));
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": not valid YAML: ", e.what()));
  }
}

absl::StatusOr<YamlMap> YamlMap::Read(const YamlValue& value) {
  if (!value.node.IsMap()) {
    return value.Fail("expected a mapping of keys to values");
  }
  YamlMap map;
  map.self_ = value;
  for (const auto& entry : value.node) {
    YamlValue item{entry.second, value.file, ""};
    if (!entry.first.IsScalar()) return item.Fail("a key is not a word");
    item.key = entry.first.Scalar();
    if (map.Has(item.key)) return item.Fail("the key is given twice");
    map.entries_.push_back(std::move(item));
  }
  return map;
}

absl::Status YamlMap::CheckKeys(
    std::initializer_list<std::string_view> known) const {
  for (const YamlValue& entry : entries_) {
    if (std::find(known.begin(), known.end(), entry.key) != known.end()) {
      continue;
    }
    std::vector<std::string> names(known.begin(), known.end());
    return entry.Fail(
        absl::StrCat("unknown key; known are ", absl::StrJoin(names, ", ")));
  }
  return absl::OkStatus();
}

std::optional<YamlValue> YamlMap::Find(std::string_view key) const {
  for (const YamlValue& entry : entries_) {
    if (entry.key == key) return entry;
  }
  return std::nullopt;
}

absl::StatusOr<YamlValue> YamlMap::Get(std::string_view key) const {
  if (std::optional<YamlValue> found = Find(key)) return *std::move(found);
  return self_.Fail(absl::StrCat("key \"", std::string(key), "\" is missing"));
}

}  // namespace weft::recipe
