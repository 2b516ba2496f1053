#include "weft/recipe/model_config.h"

#include <array>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "weft/base/read_file.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

using Json = nlohmann::json;

std::optional<tensor::DType> ParseTorchDType(std::string_view name) {
  using tensor::DType;
  static constexpr std::array<std::pair<std::string_view, DType>, 11> kNames{
      {{"bfloat16", DType::kBF16},
       {"float16", DType::kF16},
       {"half", DType::kF16},
       {"float32", DType::kF32},
       {"float", DType::kF32},
       {"float64", DType::kF64},
       {"double", DType::kF64},
       {"float8_e4m3fn", DType::kF8E4M3},
       {"float8_e5m2", DType::kF8E5M2},
       {"int8", DType::kI8},
       {"uint8", DType::kU8}}};
  constexpr std::string_view kPrefix = "torch.";
  if (name.substr(0, kPrefix.size()) == kPrefix) {
    name.remove_prefix(kPrefix.size());
  }
  for (const auto& [known, dtype] : kNames) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

// `dtype` is the newer spelling of `torch_dtype`; it wins if both are there.
absl::StatusOr<tensor::DType> DTypeOf(const Json& root) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto found = root.find(key);
    if (found == root.end() || found->is_null()) continue;
    if (!found->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config field ", key, " is not a string"));
    }
    const std::string& name = found->get_ref<const std::string&>();
    if (const auto dtype = ParseTorchDType(name)) return *dtype;
    return absl::InvalidArgumentError(absl::StrCat(
        "config field ", key, "=\"", name, "\" is no dtype that Weft knows"));
  }
  return tensor::DType::kBF16;
}

// nullopt for fractions too, and for what 64 bits cannot hold.
std::optional<int64_t> IntegerOf(const Json& value) {
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  if (!fits) return std::nullopt;
  return value.get<int64_t>();
}

// nullopt for what no recipe can ask for: nested lists, texts, fractions.
std::optional<std::vector<int64_t>> IntegersOf(const Json& list) {
  std::vector<int64_t> integers;
  for (const Json& item : list) {
    const std::optional<int64_t> integer = IntegerOf(item);
    if (!integer) return std::nullopt;
    integers.push_back(*integer);
  }
  return integers;
}

std::optional<std::vector<std::string>> WordsOf(const Json& value) {
  std::vector<std::string> words;
  if (value.is_string()) {
    for (const char letter : value.get_ref<const std::string&>()) {
      words.emplace_back(1, letter);
    }
    return words;
  }
  for (const Json& item : value) {
    if (!item.is_string()) return std::nullopt;
    words.push_back(item.get<std::string>());
  }
  return words;
}

// For errors.
std::string ShortJson(const Json& value) {
  constexpr size_t kMost = 40;
  std::string text = value.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/true,
                                Json::error_handler_t::replace);
  if (text.size() <= kMost) return text;
  return absl::StrCat(text.substr(0, kMost), "...");
}

absl::StatusOr<std::string> ArchitectureOf(const Json& root) {
  const auto found = root.find("architectures");
  if (found == root.end() || !found->is_array() || found->empty() ||
      !found->front().is_string()) {
    return absl::InvalidArgumentError(
        "config has no field architectures with a name in it");
  }
  return found->front().get<std::string>();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text) {
  const Json root = Json::parse(json_text.begin(), json_text.end(),
                                /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) {
    return absl::InvalidArgumentError("config is not valid JSON");
  }
  if (!root.is_object()) {
    return absl::InvalidArgumentError("config is not a JSON object");
  }
  ModelConfig config;
  WEFT_ASSIGN_OR_RETURN(config.architecture, ArchitectureOf(root));
  WEFT_ASSIGN_OR_RETURN(config.dtype, DTypeOf(root));
  for (const auto& [key, value] : root.items()) {
    if (value.is_null()) continue;
    if (value.is_boolean()) {
      config.numbers[key] = value.get<bool>() ? 1 : 0;
      continue;
    }
    if (const std::optional<int64_t> number = IntegerOf(value)) {
      config.numbers[key] = *number;
      continue;
    }
    config.texts[key] = ShortJson(value);
    if (value.is_array()) {
      if (auto integers = IntegersOf(value)) {
        config.lists[key] = *std::move(integers);
      } else if (auto words = WordsOf(value)) {
        config.words[key] = *std::move(words);
      }
    } else if (value.is_string()) {
      config.words[key] = *WordsOf(value);
    }
  }
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  std::error_code error;
  std::filesystem::path file(path);
  if (std::filesystem::is_directory(file, error)) file /= "config.json";
  WEFT_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(file.string()));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) return base::Annotate(config.status(), file.string());
  return config;
}

}  // namespace weft::recipe
