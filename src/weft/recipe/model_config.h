// ModelConfig: what Weft needs of a Hugging Face config.json.
#ifndef WEFT_RECIPE_MODEL_CONFIG_H_
#define WEFT_RECIPE_MODEL_CONFIG_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/tensor/dtype.h"

namespace weft::recipe {

struct ModelConfig {
  std::string architecture;  // "Qwen3ForCausalLM" (architectures[0])
  // Every integer and boolean of the file (booleans as 0 / 1), flat, by key.
  std::map<std::string, int64_t> numbers;
  // Every list of integers of the file, by key.
  std::map<std::string, std::vector<int64_t>> lists;
  // Every list of words of the file, and every text as the list of its
  // letters ("hybrid_override_pattern": "ME*E"), by key.
  std::map<std::string, std::vector<std::string>> words;
  // What every field that is no number and not null holds, as JSON, by key: a
  // recipe that asks for a number says so instead of taking it for absent.
  std::map<std::string, std::string> texts;
  tensor::DType dtype = tensor::DType::kBF16;  // dtype or torch_dtype
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

// Parses config.json text. kInvalidArgument on bad JSON, no architecture, or
// a dtype that Weft does not know. Absent or null fields stay absent: a recipe
// names the field that it misses.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text);

// `path`: a config.json or a directory that holds one. kNotFound if absent.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_MODEL_CONFIG_H_
