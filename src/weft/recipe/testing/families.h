// For tests: configs of real models and of small ones of every family.
#ifndef WEFT_RECIPE_TESTING_FAMILIES_H_
#define WEFT_RECIPE_TESTING_FAMILIES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/testing/model.h"

namespace weft::recipe::testing {

struct Family {
  std::string architecture;
  std::string fields;  // of config.json: "\"hidden_size\": 8, ..."
  // Of small models: tensors that tell what the checkpoint has, and layouts
  // that the recipe knows.
  std::vector<std::string> held = {};
  std::vector<std::string> specs = {};
};

inline ModelConfig ConfigOf(const Family& family) {
  return ParseModelConfig(absl::StrCat("{\"architectures\": [\"",
                                       family.architecture, "\"], ",
                                       family.fields,
                                       ", \"torch_dtype\": \"bfloat16\"}"))
      .value();
}

inline const Recipe& RecipeOf(const Family& family) {
  return *EmbeddedBook().Find(family.architecture).value();
}

inline std::vector<tensor::TensorSpec> CheckpointOf(const Family& family) {
  return RecipeOf(family)
      .LogicalTensorsOf(ConfigOf(family), Named(family.held))
      .value();
}

inline absl::StatusOr<RankLayout> TryLayout(const Family& family,
                                            const std::string& spec,
                                            int64_t rank) {
  return RecipeOf(family).Layout(ConfigOf(family),
                                 ParseLayoutSpec(spec).value(), rank,
                                 CheckpointOf(family));
}

inline RankLayout LayoutOf(const Family& family, const std::string& spec,
                           int64_t rank) {
  absl::StatusOr<RankLayout> layout = TryLayout(family, spec, rank);
  EXPECT_TRUE(layout.ok()) << spec << ": " << layout.status();
  return layout.ok() ? *std::move(layout) : RankLayout{};
}

inline std::vector<RankLayout> AllRanks(const Family& family,
                                        const std::string& spec) {
  const int64_t num_ranks =
      RecipeOf(family)
          .NumRanks(ConfigOf(family), ParseLayoutSpec(spec).value())
          .value();
  std::vector<RankLayout> layouts;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    layouts.push_back(LayoutOf(family, spec, rank));
  }
  return layouts;
}

inline Family DeepseekV3() {
  return {"DeepseekV3ForCausalLM", R"(
    "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "n_group": 8,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "vocab_size": 129280,
    "num_nextn_predict_layers": 1, "tie_word_embeddings": false)"};
}

inline Family KimiK2() {
  return {"DeepseekV3ForCausalLM", R"(
    "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 64,
    "num_key_value_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "n_routed_experts": 384, "n_shared_experts": 1, "n_group": 1,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "vocab_size": 163840,
    "num_nextn_predict_layers": 0, "tie_word_embeddings": false)"};
}

inline std::string Glm5Fields() {
  return R"(
    "hidden_size": 6144, "num_hidden_layers": 78, "num_attention_heads": 64,
    "num_key_value_heads": 64, "q_lora_rank": 2048, "kv_lora_rank": 512,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
    "intermediate_size": 12288, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "n_group": 1,
    "first_k_dense_replace": 3, "vocab_size": 154880, "index_n_heads": 32,
    "index_head_dim": 128, "num_nextn_predict_layers": 1)";
}
inline Family Glm5() { return {"GlmMoeDsaForCausalLM", Glm5Fields()}; }
inline Family Glm52() {
  return {
      "GlmMoeDsaForCausalLM",
      Glm5Fields() + R"(, "index_topk_freq": 4, "index_skip_topk_offset": 3)"};
}

inline Family Glm45() {
  return {"Glm4MoeForCausalLM", R"(
    "hidden_size": 5120, "num_hidden_layers": 92, "num_attention_heads": 96,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "n_routed_experts": 160,
    "n_shared_experts": 1, "n_group": 1, "first_k_dense_replace": 3,
    "vocab_size": 151552, "attention_bias": true, "use_qk_norm": true,
    "num_nextn_predict_layers": 1, "tie_word_embeddings": false)"};
}

inline Family Glm45Air() {
  return {"Glm4MoeForCausalLM", R"(
    "hidden_size": 4096, "num_hidden_layers": 46, "num_attention_heads": 96,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 10944,
    "moe_intermediate_size": 1408, "n_routed_experts": 128,
    "n_shared_experts": 1, "n_group": 1, "first_k_dense_replace": 1,
    "vocab_size": 151552, "attention_bias": true, "use_qk_norm": false,
    "num_nextn_predict_layers": 1, "tie_word_embeddings": false)"};
}

inline Family GptOss(int num_layers, int num_experts) {
  return {"GptOssForCausalLM",
          absl::StrCat(R"(
    "hidden_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8,
    "head_dim": 64, "intermediate_size": 2880, "vocab_size": 201088,
    "tie_word_embeddings": false, "attention_bias": true,
    "num_hidden_layers": )",
                       num_layers, ", \"num_local_experts\": ", num_experts)};
}
inline Family GptOss120b() { return GptOss(36, 128); }
inline Family GptOss20b() { return GptOss(24, 32); }

inline Family Nemotron3Nano() {
  return {"NemotronHForCausalLM", R"(
    "hidden_size": 2688, "num_hidden_layers": 52, "num_attention_heads": 32,
    "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 131072,
    "intermediate_size": 1856, "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712, "n_routed_experts": 128,
    "n_shared_experts": 1, "n_group": 1, "mamba_num_heads": 64,
    "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128,
    "conv_kernel": 4, "use_conv_bias": true, "tie_word_embeddings": false,
    "hybrid_override_pattern":
        "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME")"};
}

// Small models with everything in them that their family may have.
inline std::vector<Family> SmallFamilies() {
  const std::string mla = R"(
    "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 4,
    "kv_lora_rank": 6, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2,
    "v_head_dim": 5, "intermediate_size": 8, "moe_intermediate_size": 4,
    "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "vocab_size": 66, "n_group": 2)";
  const std::string mtp =
      R"(, "q_lora_rank": 4, "num_nextn_predict_layers": 1)";
  const std::vector<std::string> mtp_names = {
      "model.layers.4.eh_proj.weight", "model.layers.4.embed_tokens.weight",
      "model.layers.4.shared_head.head.weight"};
  const std::string gqa = R"(
    "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 3, "intermediate_size": 8,
    "vocab_size": 66)";
  const std::vector<std::string> trainers = {
      "hf", "fsdp:shard=3", "megatron:tp=2,vocab_divisor=1",
      "megatron:tp=2,pp=2,vpp=2,vocab_divisor=2"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = trainers;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<std::string> engines = {
      "vllm:tp=2,pp=2", "vllm:tp=4,ep=4", "vllm:tp=2,ep=2,redundant=3",
      "sglang:tp=4,dp=2,ep=2", "sglang:tp=4,pp=3,shared_fusion=off"};
  const std::vector<std::string> of_experts = {
      "fsdp:shard=4,ep=2,tp=2", "megatron:tp=2,dp=2,ep=2,etp=1,vocab_divisor=1",
      "megatron:tp=2,dp=2,ep=4,etp=1,vocab_divisor=1"};
  std::vector<std::string> moe = with(of_experts);
  moe.insert(moe.end(), engines.begin(), engines.end());
  std::vector<std::string> deepseek = moe;
  deepseek.insert(
      deepseek.end(),
      {"vllm:tp=4,ep=4,placement=round_robin",
       "megatron:tp=2,impl=local,experts=sequential,vocab_divisor=1",
       "megatron:tp=2,mla=fused,mtp=transformer_layer,vocab_divisor=1"});
  return {
      {"DeepseekV3ForCausalLM", mla + mtp, mtp_names, deepseek},
      {"DeepseekV2ForCausalLM", mla, {}, moe},
      {"GlmMoeDsaForCausalLM",
       mla + mtp + R"(, "index_n_heads": 2, "index_head_dim": 3,
                        "index_topk_freq": 2, "index_skip_topk_offset": 1)",
       {"model.layers.4.eh_proj.weight"},
       with({"vllm:tp=2,pp=2", "vllm:tp=4,ep=4", "fsdp:shard=4,ep=2,tp=2",
             "sglang:tp=2"})},
      {"Glm4MoeForCausalLM",
       gqa + R"(, "attention_bias": true, "use_qk_norm": true,
                  "moe_intermediate_size": 4, "n_routed_experts": 4,
                  "n_shared_experts": 2, "first_k_dense_replace": 1,
                  "num_nextn_predict_layers": 1)",
       mtp_names, moe},
      {"GptOssForCausalLM",
       gqa + R"(, "num_local_experts": 4, "attention_bias": true)",
       {},
       {"hf", "fsdp:shard=4,ep=2", "vllm:tp=2,pp=2", "vllm:tp=2,dp=2,ep=4",
        "vllm:dp=2,ep=2", "megatron:tp=2,etp=1,vocab_divisor=1",
        "megatron:tp=2,etp=1,experts=sequential,vocab_divisor=1",
        "megatron:tp=2,dp=2,pp=2,vpp=2,ep=4,etp=1,vocab_divisor=1",
        "sglang:tp=2"}},
      {"NemotronHForCausalLM",
       R"(
    "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 3, "intermediate_size": 6,
    "vocab_size": 66, "mamba_num_heads": 4, "mamba_head_dim": 2, "n_groups": 2,
    "ssm_state_size": 2, "conv_kernel": 4, "moe_intermediate_size": 4,
    "moe_shared_expert_intermediate_size": 6, "n_routed_experts": 4,
    "n_shared_experts": 1, "moe_latent_size": 5,
    "hybrid_override_pattern": "M*E-")",
       {},
       with({"fsdp:shard=4,ep=2", "vllm:tp=2,pp=2", "vllm:tp=2,ep=2",
             "megatron:tp=2,dp=2,ep=4,etp=1,vocab_divisor=1", "sglang:tp=2"})},
      {"Qwen3NextForCausalLM",
       gqa + R"(, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                  "linear_key_head_dim": 3, "linear_value_head_dim": 2,
                  "linear_conv_kernel_dim": 4, "num_experts": 4,
                  "moe_intermediate_size": 4,
                  "shared_expert_intermediate_size": 6,
                  "full_attention_interval": 2)",
       {},
       with({"fsdp:shard=4,ep=2,tp=2", "vllm:tp=2,pp=2", "vllm:tp=2,ep=2",
             "megatron:tp=2,dp=2,ep=4,etp=1,vocab_divisor=1", "sglang:tp=2"})},
      {"Phi3ForCausalLM",
       gqa,
       {},
       with({"vllm:tp=4,pp=2", "sglang:tp=4,dp=2", "fsdp:shard=3,tp=2",
             "megatron:tp=4,impl=local,vocab_divisor=1"})},
      {"Gemma2ForCausalLM",
       gqa,
       {},
       with({"vllm:tp=4,pp=2", "sglang:tp=4,dp=4", "fsdp:shard=3,tp=2"})},
      {"Gemma3ForCausalLM",
       gqa,
       {},
       with({"vllm:tp=4,pp=2", "sglang:tp=4,dp=4", "fsdp:shard=3,tp=2"})},
      {"Qwen3MoeForCausalLM",
       gqa + R"(, "num_experts": 4, "moe_intermediate_size": 4)",
       {},
       moe},
      {"MixtralForCausalLM", gqa + R"(, "num_local_experts": 4)", {}, moe}};
}

}  // namespace weft::recipe::testing

#endif  // WEFT_RECIPE_TESTING_FAMILIES_H_
