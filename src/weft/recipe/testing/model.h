// For tests: small models, made through config.json as a user would.
#ifndef WEFT_RECIPE_TESTING_MODEL_H_
#define WEFT_RECIPE_TESTING_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/recipe/recipe.h"

namespace weft::recipe::testing {

struct Model {
  std::string architecture = "LlamaForCausalLM";
  int64_t H = 2, L = 1, Hq = 4, G = 2, D = 2, I = 8, V = 8;
  bool tied = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  // Further fields of config.json: "\"num_experts\": 4".
  std::string more = "";

  std::string ConfigJson() const {
    const auto boolean = [](bool value) { return value ? "true" : "false"; };
    return absl::StrCat(
        "{\"architectures\": [\"", architecture, "\"], \"hidden_size\": ", H,
        ", \"num_hidden_layers\": ", L, ", \"num_attention_heads\": ", Hq,
        ", \"num_key_value_heads\": ", G, ", \"head_dim\": ", D,
        ", \"intermediate_size\": ", I, ", \"vocab_size\": ", V,
        ", \"tie_word_embeddings\": ", boolean(tied),
        ", \"attention_bias\": ", boolean(attention_bias),
        ", \"mlp_bias\": ", boolean(mlp_bias), more.empty() ? "" : ", ", more,
        ", \"torch_dtype\": \"bfloat16\"}");
  }
  ModelConfig Config() const { return ParseModelConfig(ConfigJson()).value(); }
};

inline const RecipeBook& EmbeddedBook() {
  static const auto* const kBook = new RecipeBook(RecipeBook::Load("").value());
  return *kBook;
}

inline const Recipe& RecipeFor(const Model& model) {
  return *EmbeddedBook().Find(model.architecture).value();
}

// Tensors that are only there: their shapes say nothing.
inline std::vector<tensor::TensorSpec> Named(
    const std::vector<std::string>& names) {
  std::vector<tensor::TensorSpec> specs;
  for (const std::string& name : names) {
    specs.push_back({name, tensor::DType::kBF16, {}});
  }
  return specs;
}

// Whether a checkpoint may hold `name` beside what the recipe expects.
inline bool IsIgnored(const Recipe& recipe, const ModelConfig& config,
                      const std::string& name) {
  const std::vector<IgnoredTensor> ignored =
      recipe.IgnoredTensors(config).value();
  for (const IgnoredTensor& one : ignored) {
    if (one.Fits(name)) return true;
  }
  return false;
}

inline absl::StatusOr<RankLayout> TryLayout(const Model& model,
                                            const std::string& spec_text,
                                            int64_t rank) {
  const ModelConfig config = model.Config();
  const Recipe& recipe = RecipeFor(model);
  const absl::StatusOr<LayoutSpec> spec = ParseLayoutSpec(spec_text);
  if (!spec.ok()) return spec.status();
  const auto logical = recipe.LogicalTensors(config);
  if (!logical.ok()) return logical.status();
  return recipe.Layout(config, *spec, rank, *logical);
}

inline RankLayout LayoutOf(const Model& model, const std::string& spec,
                           int64_t rank) {
  absl::StatusOr<RankLayout> layout = TryLayout(model, spec, rank);
  EXPECT_TRUE(layout.ok()) << spec << ": " << layout.status();
  return layout.ok() ? *std::move(layout) : RankLayout{};
}

inline std::vector<RankLayout> AllRanks(const Model& model,
                                        const std::string& spec) {
  const int64_t num_ranks =
      RecipeFor(model)
          .NumRanks(model.Config(), ParseLayoutSpec(spec).value())
          .value();
  std::vector<RankLayout> layouts;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    layouts.push_back(LayoutOf(model, spec, rank));
  }
  return layouts;
}

}  // namespace weft::recipe::testing

#endif  // WEFT_RECIPE_TESTING_MODEL_H_
