// Reading yaml-cpp nodes with errors that name file, line and key. The only
// header of this room that shows yaml-cpp. Private to this room.
#ifndef WEFT_RECIPE_YAML_READER_INTERNAL_H_
#define WEFT_RECIPE_YAML_READER_INTERNAL_H_

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "yaml-cpp/yaml.h"

namespace weft::recipe {

// A node, and how a person finds it: "llama.yaml:12: rows".
struct YamlValue {
  YAML::Node node;
  std::string file;
  std::string key;

  std::string Where() const;
  absl::Status Fail(std::string_view message) const;
  bool IsList() const { return node.IsSequence(); }
  // kInvalidArgument unless it is a scalar / a list / a list of scalars.
  absl::StatusOr<std::string> Text() const;
  absl::StatusOr<std::vector<YamlValue>> Items() const;
  absl::StatusOr<std::vector<std::string>> Texts() const;
};

// The one document of `text`. kInvalidArgument on bad YAML.
absl::StatusOr<YamlValue> ParseYaml(std::string_view text,
                                    std::string_view file);

// A mapping with scalar keys, none twice, in file order.
class YamlMap {
 public:
  static absl::StatusOr<YamlMap> Read(const YamlValue& value);
  // kInvalidArgument that names the first key not in `known`, and lists them.
  absl::Status CheckKeys(std::initializer_list<std::string_view> known) const;

  bool Has(std::string_view key) const { return Find(key).has_value(); }
  std::optional<YamlValue> Find(std::string_view key) const;
  // kInvalidArgument if the key is missing.
  absl::StatusOr<YamlValue> Get(std::string_view key) const;
  const std::vector<YamlValue>& entries() const { return entries_; }
  const YamlValue& self() const { return self_; }

 private:
  YamlValue self_;
  std::vector<YamlValue> entries_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_YAML_READER_INTERNAL_H_
