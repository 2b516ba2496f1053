// The families: counts, totals, what is dropped, what is refused and how the
// sentence reads.

#include "weft/recipe/recipe.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/model_config.h"
#include "weft/recipe/testing/model.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Error(const Model& model, const std::string& spec, int64_t rank) {
  const auto layout = TryLayout(model, spec, rank);
  EXPECT_FALSE(layout.ok()) << spec;
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(layout.status().message());
}

std::vector<tensor::TensorSpec> LogicalOf(const Model& model) {
  return RecipeFor(model).LogicalTensors(model.Config()).value();
}

struct Totals {
  std::size_t num_tensors = 0;
  int64_t num_parameters = 0;
};
Totals TotalsOf(const Model& model) {
  Totals totals;
  for (const tensor::TensorSpec& spec : LogicalOf(model)) {
    int64_t num_elements = 1;
    for (const int64_t extent : spec.shape) num_elements *= extent;
    ++totals.num_tensors;
    totals.num_parameters += num_elements;
  }
  return totals;
}

TEST(RecipeTest, CountsOfTensors) {
  for (const int64_t L : {1, 3, 10}) {
    Model llama{.L = L};
    EXPECT_EQ(TotalsOf(llama).num_tensors, 3 + 9 * L);
    llama.tied = true;
    EXPECT_EQ(TotalsOf(llama).num_tensors, 2 + 9 * L);
    llama.attention_bias = true;
    EXPECT_EQ(TotalsOf(llama).num_tensors, 2 + 13 * L);
    llama.mlp_bias = true;
    EXPECT_EQ(TotalsOf(llama).num_tensors, 2 + 16 * L);
    Model qwen2{.architecture = "Qwen2ForCausalLM", .L = L, .tied = true};
    EXPECT_EQ(TotalsOf(qwen2).num_tensors, 12 * L + 2);
    qwen2.tied = false;
    EXPECT_EQ(TotalsOf(qwen2).num_tensors, 12 * L + 3);
    const Model qwen3{.architecture = "Qwen3ForCausalLM", .L = L, .tied = true};
    EXPECT_EQ(TotalsOf(qwen3).num_tensors, 11 * L + 2);
  }
}

TEST(RecipeTest, TotalsOfRealModels) {
  const auto expect = [](const Model& model, std::size_t num_tensors,
                         int64_t num_parameters) {
    const Totals totals = TotalsOf(model);
    EXPECT_EQ(totals.num_tensors, num_tensors);
    EXPECT_EQ(totals.num_parameters, num_parameters);
  };
  // Llama-3.1-8B, Llama-3.1-70B.
  expect(
      {.H = 4096, .L = 32, .Hq = 32, .G = 8, .D = 128, .I = 14336, .V = 128256},
      291, 8'030'261'248);
  expect(
      {.H = 8192, .L = 80, .Hq = 64, .G = 8, .D = 128, .I = 28672, .V = 128256},
      723, 70'553'706'496);
  // Qwen2.5-1.5B, Qwen3-0.6B, Qwen3-4B.
  expect({.architecture = "Qwen2ForCausalLM",
          .H = 1536,
          .L = 28,
          .Hq = 12,
          .G = 2,
          .D = 128,
          .I = 8960,
          .V = 151936,
          .tied = true},
         338, 1'543'714'304);
  expect({.architecture = "Qwen3ForCausalLM",
          .H = 1024,
          .L = 28,
          .Hq = 16,
          .G = 8,
          .D = 128,
          .I = 3072,
          .V = 151936,
          .tied = true},
         310, 596'049'920);
  expect({.architecture = "Qwen3ForCausalLM",
          .H = 2560,
          .L = 36,
          .Hq = 32,
          .G = 8,
          .D = 128,
          .I = 9728,
          .V = 151936,
          .tied = true},
         398, 4'022'468'096);
}

TEST(RecipeTest, AbsentFieldsWithARule) {
  // head_dim = hidden_size / heads, key/value heads = heads, untied, no bias.
  const ModelConfig config = ParseModelConfig(R"({
      "architectures": ["LlamaForCausalLM"], "hidden_size": 12,
      "num_hidden_layers": 1, "num_attention_heads": 3,
      "intermediate_size": 5, "vocab_size": 7, "torch_dtype": "float32"})")
                                 .value();
  const Recipe& recipe = *EmbeddedBook().Find("LlamaForCausalLM").value();
  const auto logical = recipe.LogicalTensors(config).value();
  ASSERT_EQ(logical.size(), 12u);
  EXPECT_EQ(logical[2].name, "model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(logical[2].shape, (tensor::Shape{12, 12}));
  EXPECT_EQ(logical[2].dtype, tensor::DType::kF32);
  EXPECT_EQ(logical.back().name, "lm_head.weight");
}

TEST(RecipeTest, ConfigErrorsNameEveryField) {
  const Recipe& recipe = *EmbeddedBook().Find("Qwen3ForCausalLM").value();
  ModelConfig config;
  config.architecture = "Qwen3ForCausalLM";
  config.numbers = {{"hidden_size", 8}, {"vocab_size", 0}};
  EXPECT_THAT(std::string(recipe.LogicalTensors(config).status().message()),
              AllOf(HasSubstr("config of Qwen3ForCausalLM lacks the field "
                              "num_hidden_layers"),
                    HasSubstr("lacks the field num_attention_heads"),
                    HasSubstr("lacks the field intermediate_size"),
                    HasSubstr("config field vocab_size=0 is not positive")));
  config.numbers = {{"hidden_size", 10},
                    {"num_hidden_layers", 1},
                    {"num_attention_heads", 3},
                    {"intermediate_size", 8},
                    {"vocab_size", 8}};
  EXPECT_THAT(std::string(recipe.LogicalTensors(config).status().message()),
              AllOf(HasSubstr("config lacks the field head_dim"),
                    HasSubstr("10 / 3 leaves remainder 1")));
  config.numbers["head_dim"] = 4;
  config.numbers["tie_word_embeddings"] = 2;
  EXPECT_THAT(std::string(recipe.LogicalTensors(config).status().message()),
              HasSubstr("tie_word_embeddings=2 is neither true nor false"));
  config.numbers["tie_word_embeddings"] = 0;
  config.numbers["num_key_value_heads"] = 2;
  EXPECT_THAT(std::string(recipe.LogicalTensors(config).status().message()),
              HasSubstr("num_key_value_heads=2 does not divide "
                        "num_attention_heads=3"));
  config.numbers["num_key_value_heads"] = 3;
  EXPECT_TRUE(recipe.LogicalTensors(config).ok());
  config.numbers["attention_bias"] = 1;
  EXPECT_THAT(std::string(recipe.LogicalTensors(config).status().message()),
              HasSubstr("attention_bias=true: Qwen3 with attention biases is "
                        "not supported"));
  config.numbers["attention_bias"] = 0;
  config.numbers["num_hidden_layers"] = 1'000'000'000'000;
  EXPECT_THAT(std::string(recipe.LogicalTensors(config).status().message()),
              HasSubstr("loop of 1000000000000 rounds"));
}

// A field that is there in another form is not absent: its default would give
// another layout without a word.
TEST(RecipeTest, ADefaultHidesNoFieldOfAnotherForm) {
  const auto error = [](const std::string& architecture,
                        const std::string& fields) {
    const auto config = ParseModelConfig(absl::StrCat(
        R"({"architectures": [")", architecture, R"("], "hidden_size": 8,)",
        R"("num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8,)",
        R"("intermediate_size": 8, "num_experts": 2,)",
        R"("moe_intermediate_size": 8, )", fields, "}"));
    const Recipe& recipe = *EmbeddedBook().Find(architecture).value();
    return std::string(
        recipe.LogicalTensors(config.value()).status().message());
  };
  const std::string qwen = "Qwen3ForCausalLM";
  const std::string moe = "Qwen3MoeForCausalLM";
  EXPECT_EQ(error(qwen, R"("head_dim": null)"), "");
  EXPECT_EQ(error(qwen, R"("head_dim": "128")"),
            "config field head_dim=\"128\" is no whole number of 64 bits");
  EXPECT_EQ(error(qwen, R"("num_key_value_heads": 1.0)"),
            "config field num_key_value_heads=1.0 is no whole number of 64 "
            "bits");
  EXPECT_EQ(error(qwen, R"("head_dim": 18446744073709551615)"),
            "config field head_dim=18446744073709551615 is no whole number of "
            "64 bits");
  EXPECT_EQ(error(qwen, R"("tie_word_embeddings": "yes")"),
            "config field tie_word_embeddings=\"yes\" is neither true nor "
            "false");
  EXPECT_EQ(error(moe, R"("mlp_only_layers": [])"), "");
  EXPECT_EQ(error(moe, R"("mlp_only_layers": [0.0])"),
            "config field mlp_only_layers=[0.0] is no list of integers or of "
            "words");
}

TEST(RecipeTest, Ignorable) {
  Model model{.architecture = "Qwen3ForCausalLM", .L = 2, .tied = true};
  const auto ignorable = [&](const std::string& name) {
    return IsIgnored(RecipeFor(model), model.Config(), name);
  };
  EXPECT_TRUE(ignorable("lm_head.weight"));
  EXPECT_TRUE(ignorable("model.layers.1.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(ignorable("model.layers.2.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(ignorable("model.norm.weight"));
  EXPECT_FALSE(ignorable("else"));
  model.tied = false;
  EXPECT_FALSE(ignorable("lm_head.weight"));
}

TEST(RecipeTest, NumRanks) {
  const Model model;
  const auto num_ranks = [&](const std::string& spec) {
    return RecipeFor(model)
        .NumRanks(model.Config(), ParseLayoutSpec(spec).value())
        .value();
  };
  EXPECT_EQ(num_ranks("hf"), 1);
  EXPECT_EQ(num_ranks("fsdp:shard=4,replicate=3,tp=2"), 24);
  EXPECT_EQ(num_ranks("megatron:tp=2,pp=3,cp=5,dp=7"), 210);
  EXPECT_EQ(num_ranks("vllm:tp=2,pp=3,dp=4"), 24);
  EXPECT_FALSE(
      RecipeFor(model)
          .NumRanks(model.Config(),
                    ParseLayoutSpec("vllm:tp=9223372036854775807,pp=2").value())
          .ok());
}

TEST(RecipeTest, RankOutOfRange) {
  const Model model;
  EXPECT_EQ(Error(model, "megatron:tp=2,dp=4", 8),
            "rank 8 is not below the 8 ranks of megatron:tp=2,dp=4");
  EXPECT_EQ(Error(model, "hf", 1), "rank 1 is not below the 1 rank of hf");
  EXPECT_EQ(Error(model, "hf", -1), "rank -1 is negative");
}

TEST(RecipeTest, MegatronRefuses) {
  const Model model{.Hq = 16, .G = 4, .D = 2, .I = 12, .V = 130};
  EXPECT_THAT(Error(model, "megatron:tp=3", 0),
              AllOf(HasSubstr("megatron:tp=3: "),
                    HasSubstr("tp=3 does not divide num_attention_heads=16"),
                    HasSubstr("tp=3 and num_key_value_heads=4: one must "
                              "divide the other"),
                    HasSubstr("tp=3 does not divide vocab_size=130; give "
                              "vocab_divisor=")));
  EXPECT_THAT(Error(model, "megatron:tp=8,vocab_divisor=1", 0),
              AllOf(HasSubstr("tp=8 does not divide intermediate_size=12"),
                    ::testing::Not(HasSubstr("vocab_size"))));
  EXPECT_THAT(Error({.Hq = 2, .G = 1, .D = 1, .V = 5}, "megatron:tp=2", 1),
              HasSubstr("tp=2 does not divide vocab_size=5"));
  // Eight heads and two groups of one row: 12 rows for 8 ranks.
  EXPECT_THAT(Error({.Hq = 8, .G = 2, .D = 1}, "megatron:tp=8", 0),
              HasSubstr("tp=8 does not divide the 12 rows of linear_qkv"));
  EXPECT_THAT(Error({.L = 5}, "megatron:pp=2", 0),
              HasSubstr("pp=2 does not divide num_hidden_layers=5"));
  EXPECT_THAT(Error({.L = 5}, "megatron:pp=2,first=5", 0),
              HasSubstr("first=5 with pp=2 leaves 0 of num_hidden_layers=5"));
  // Pipeline and tensor faults in one message.
  EXPECT_THAT(Error({.L = 5, .Hq = 4}, "megatron:tp=3,pp=2", 0),
              AllOf(HasSubstr("num_attention_heads=4"),
                    HasSubstr("num_hidden_layers=5")));
}

TEST(RecipeTest, VllmRefuses) {
  EXPECT_THAT(Error({.Hq = 12, .G = 2, .I = 10}, "vllm:tp=8", 0),
              AllOf(HasSubstr("tp=8 does not divide num_attention_heads=12"),
                    HasSubstr("tp=8 does not divide intermediate_size=10")));
  EXPECT_THAT(Error({.Hq = 12, .G = 6, .I = 12}, "vllm:tp=4", 0),
              HasSubstr("tp=4 and num_key_value_heads=6"));
  EXPECT_THAT(Error({.Hq = 3, .G = 3, .I = 3, .V = 1}, "vllm:tp=3", 0),
              HasSubstr("tp=3 does not divide the 64 rows of the padded "
                        "vocabulary"));
}

TEST(RecipeTest, TiedHeadOnLastStage) {
  const Model model{.L = 2, .tied = true};
  const auto names = [&](const std::string& spec, int64_t rank) {
    std::vector<std::string> result;
    for (const auto& stored : LayoutOf(model, spec, rank).stored) {
      if (stored.name.find("layers") == std::string::npos) {
        result.push_back(stored.name);
      }
    }
    return result;
  };
  EXPECT_THAT(names("megatron", 0),
              ElementsAre("embedding.word_embeddings.weight",
                          "decoder.final_layernorm.weight"));
  EXPECT_THAT(names("megatron:pp=2", 0),
              ElementsAre("embedding.word_embeddings.weight"));
  EXPECT_THAT(
      names("megatron:pp=2", 1),
      ElementsAre("decoder.final_layernorm.weight", "output_layer.weight"));
  EXPECT_THAT(names("vllm:pp=2", 0), ElementsAre("model.embed_tokens.weight"));
  EXPECT_THAT(names("vllm:pp=2", 1),
              ElementsAre("model.embed_tokens.weight", "model.norm.weight"));
}

TEST(RecipeTest, LayerNumbers) {
  const Model model{.L = 4};
  // Megatron's are local to the stage, vLLM's global.
  EXPECT_NE(FindStored(LayoutOf(model, "megatron:pp=2,first=1", 1),
                       "decoder.layers.2.mlp.linear_fc2.weight"),
            nullptr);
  const RankLayout last = LayoutOf(model, "vllm:pp=2", 1);
  EXPECT_NE(FindStored(last, "model.layers.3.mlp.down_proj.weight"), nullptr);
  EXPECT_EQ(FindStored(last, "model.layers.0.mlp.down_proj.weight"), nullptr);
}

TEST(RecipeTest, UnevenMegatronStages) {
  const Model model{.L = 10};
  const std::string spec = "megatron:pp=4,first=2,last=2";
  const std::vector<std::string> first_norm{
      "model.layers.0.input_layernorm.weight",
      "model.layers.2.input_layernorm.weight",
      "model.layers.5.input_layernorm.weight",
      "model.layers.8.input_layernorm.weight"};
  for (int64_t stage = 0; stage < 4; ++stage) {
    const RankLayout layout = LayoutOf(model, spec, stage);
    const auto* const stored = FindStored(
        layout, "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight");
    ASSERT_NE(stored, nullptr);
    EXPECT_EQ(OriginsOf(layout, *stored)[0].tensor, first_norm[stage]);
  }
}

TEST(RecipeTest, LayoutNamesItself) {
  const RankLayout layout = LayoutOf(Model{}, "megatron:dp=2,tp=2,impl=te", 3);
  EXPECT_EQ(layout.layout_spec, "megatron:tp=2,dp=2");
  EXPECT_EQ(layout.rank, 3);
  EXPECT_EQ(layout.num_ranks, 4);
}

TEST(RecipeTest, DTypes) {
  const Model model;
  auto logical = LogicalOf(model);
  const auto layout = [&](const std::string& spec) {
    return RecipeFor(model).Layout(model.Config(),
                                   ParseLayoutSpec(spec).value(), 0, logical);
  };
  const RankLayout wide = layout("vllm:dtype=f32").value();
  for (const auto& stored : wide.stored) {
    EXPECT_EQ(stored.dtype, tensor::DType::kF32);
  }
  // The fragments keep the checkpoint's dtype in view.
  EXPECT_EQ(wide.tensors[0].dtype, tensor::DType::kBF16);
  for (tensor::TensorSpec& spec : logical) {
    if (spec.name == "model.norm.weight" ||
        spec.name == "model.layers.0.self_attn.k_proj.weight") {
      spec.dtype = tensor::DType::kF32;
    }
  }
  const RankLayout hf = layout("hf").value();
  EXPECT_EQ(FindStored(hf, "model.norm.weight")->dtype, tensor::DType::kF32);
  EXPECT_EQ(FindStored(hf, "lm_head.weight")->dtype, tensor::DType::kBF16);
  EXPECT_EQ(std::string(layout("vllm").status().message()),
            "parts of \"model.layers.0.self_attn.qkv_proj.weight\" differ in "
            "dtype: \"model.layers.0.self_attn.q_proj.weight\" is BF16, "
            "\"model.layers.0.self_attn.k_proj.weight\" is F32; give "
            "dtype=bf16, f16 or f32");
  EXPECT_TRUE(layout("vllm:dtype=bf16").ok());
}

TEST(RecipeTest, CheckpointThatDoesNotFit) {
  const Model model{.tied = true};
  const auto logical = LogicalOf(model);
  const auto error = [&](const std::vector<tensor::TensorSpec>& given) {
    return std::string(
        RecipeFor(model)
            .Layout(model.Config(), ParseLayoutSpec("hf").value(), 0, given)
            .status()
            .message());
  };
  auto given = logical;
  given.erase(given.begin() + 1);  // q_proj
  given[0].shape = {9, 2};
  given.push_back({"visual.proj", tensor::DType::kBF16, {2}});
  given.push_back(given[2]);
  EXPECT_THAT(
      error(given),
      AllOf(HasSubstr("tensor \"model.layers.0.self_attn.q_proj.weight\" of "
                      "shape [8,2] is missing"),
            HasSubstr("tensor \"model.embed_tokens.weight\" has the shape "
                      "[9,2], but the config gives [8,2]"),
            HasSubstr("tensor \"visual.proj\" of shape [2] does not belong to "
                      "the model"),
            HasSubstr("tensor \"model.layers.0.self_attn.v_proj.weight\" of "
                      "shape [4,2] is listed twice")));
  // A redundant head of a tied model and any order are fine.
  given = logical;
  std::reverse(given.begin(), given.end());
  given.push_back({"lm_head.weight", tensor::DType::kBF16, {8, 2}});
  EXPECT_EQ(error(given), "");
}

TEST(RecipeTest, OnlyTensorsInUseAreListed) {
  const Model model{.L = 2};
  const RankLayout layout = LayoutOf(model, "vllm:pp=2", 0);
  std::vector<std::string> names;
  for (const tensor::TensorSpec& spec : layout.tensors) {
    names.push_back(spec.name);
  }
  EXPECT_EQ(names.size(), 10u);
  EXPECT_EQ(names.front(), "model.embed_tokens.weight");
  EXPECT_EQ(names.back(), "model.layers.0.post_attention_layernorm.weight");
}

TEST(RecipeTest, SameInputsSameLayout) {
  const Model model{.L = 2};
  const RankLayout a = LayoutOf(model, "megatron:tp=2", 1);
  const RankLayout b = LayoutOf(model, "megatron:tp=2", 1);
  EXPECT_EQ(a.stored, b.stored);
  EXPECT_EQ(a.tensors, b.tensors);
}

}  // namespace
}  // namespace weft::recipe::testing
