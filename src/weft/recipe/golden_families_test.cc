// The worked examples W5, W13, W17 and W25-W28 of families beside Llama
// and Qwen, every expectation typed from the text. M: rank of a Megatron source
// x its local rows.

#include <unistd.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/testing/families.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Rows(
    const Family& family, const std::string& spec, const std::string& name,
    const std::map<std::string, std::string>& labels) {
  std::vector<std::string> rows;
  for (const RankLayout& layout : AllRanks(family, spec)) {
    rows.push_back(RowsOf(layout, name, labels));
  }
  return rows;
}

std::vector<std::string> Compose(const Family& family,
                                 const std::string& source,
                                 const std::string& source_name,
                                 const std::string& target,
                                 const std::string& target_name) {
  const Whereabouts where = Locate(AllRanks(family, source), {source_name});
  std::vector<std::string> rows;
  for (const RankLayout& layout : AllRanks(family, target)) {
    rows.push_back(ComposeRows(layout, target_name, where, "M"));
  }
  return rows;
}

std::vector<std::string> Names(const RankLayout& layout) {
  std::vector<std::string> names;
  for (const auto& stored : layout.stored) names.push_back(stored.name);
  return names;
}

Family Qwen3Next(int64_t Hq, int64_t G, int64_t key_heads = 2) {
  return {"Qwen3NextForCausalLM",
          absl::StrCat(R"("hidden_size": 2, "num_hidden_layers": 1,
    "head_dim": 2, "intermediate_size": 4, "vocab_size": 8,
    "linear_num_value_heads": 4, "moe_intermediate_size": 4,
    "linear_key_head_dim": 1, "linear_value_head_dim": 2,
    "linear_conv_kernel_dim": 2, "num_experts": 2,
    "shared_expert_intermediate_size": 4, "full_attention_interval": 1,
    "num_attention_heads": )",
                       Hq, ", \"num_key_value_heads\": ", G,
                       ", \"linear_num_key_heads\": ", key_heads)};
}

const std::map<std::string, std::string>& Qkv() {
  static const auto* const kLabels = new std::map<std::string, std::string>{
      {"q_proj", "q"}, {"k_proj", "k"}, {"v_proj", "v"}};
  return *kLabels;
}

TEST(GoldenFamiliesTest, W5AttentionOutputGate) {
  const std::string merged =
      "decoder.layers.0.self_attention.linear_qkv.weight";
  EXPECT_THAT(Rows(Qwen3Next(2, 1), "megatron", merged, Qkv()),
              ElementsAre("q[0..1] q[4..5] q[2..3] q[6..7] k[0..1] v[0..1]"));
  EXPECT_THAT(Compose(Qwen3Next(4, 2), "megatron:tp=2", merged, "vllm:tp=2",
                      "model.layers.0.self_attn.qkv_proj.weight"),
              ElementsAre("M0[0..1] M0[4..5] M0[2..3] M0[6..11]",
                          "M1[0..1] M1[4..5] M1[2..3] M1[6..11]"));
  // One head's rows of a cut that goes through a group: Hq=4, G=2, tp=4.
  EXPECT_THAT(
      Rows(Qwen3Next(4, 2, 4), "megatron:tp=4", merged, Qkv()),
      ElementsAre("q[0..1] q[4..5] q[2..3]", "q[6..7] k[0..1] v[0..1]",
                  "q[8..9] q[12..13] q[10..11]", "q[14..15] k[2..3] v[2..3]"));
}

TEST(GoldenFamiliesTest, GatedDeltaNetOfHeadGroups) {
  Family family = Qwen3Next(2, 1);
  family.fields += ", \"layer_types\": [\"linear_attention\"]";
  // Two key heads of 10 rows each: q 1, k 1, v 4, z 4; and of b 2, a 2. One
  // rank has all q, all k and so on.
  const std::map<std::string, std::string> labels = {{"qkvz", "x"},
                                                     {"in_proj_ba", "y"}};
  const std::string name = "decoder.layers.0.self_attention.in_proj.weight";
  EXPECT_THAT(Rows(family, "megatron", name, labels),
              ElementsAre("x[0] x[10] x[1] x[11] x[2..5] x[12..15] x[6..9] "
                          "x[16..19] y[0..1] y[4..5] y[2..3] y[6..7]"));
}

std::string Dealt(const RankLayout& layout, const std::string& name) {
  const layout::StoredTensor& stored = *FindStored(layout, name);
  const std::vector<Origin> origins = OriginsOf(layout, stored);
  std::string list;
  for (int64_t j = 0; j < stored.shape[0]; ++j) {
    const std::string& tensor =
        origins[j * stored.shape[1] * stored.shape[2]].tensor;
    const auto at = tensor.find("experts.") + 8;
    absl::StrAppend(&list, j > 0 ? " " : "",
                    tensor.substr(at, tensor.find('.', at) - at));
  }
  return list;
}

Family Deepseek(int64_t num_layers, int64_t num_experts,
                const std::string& more = "") {
  return {
      "DeepseekV3ForCausalLM",
      absl::StrCat(R"("hidden_size": 4, "num_attention_heads": 2,
    "q_lora_rank": 4, "kv_lora_rank": 2, "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 4, "v_head_dim": 3, "intermediate_size": 4,
    "moe_intermediate_size": 2, "n_shared_experts": 1, "vocab_size": 64,
    "num_hidden_layers": )",
                   num_layers, ", \"n_routed_experts\": ", num_experts, more)};
}

TEST(GoldenFamiliesTest, W13RoundRobinAndBalancedExperts) {
  const std::string w13 =
      "model.layers.0.mlp.experts.routed_experts.w13_weight";
  const auto dealt = [&](const Family& family, const std::string& spec) {
    std::vector<std::string> lists;
    for (const RankLayout& layout : AllRanks(family, spec)) {
      lists.push_back(Dealt(layout, w13));
    }
    return lists;
  };
  const Family grouped = Deepseek(1, 10, ", \"n_group\": 2");
  EXPECT_THAT(dealt(grouped, "vllm:dp=4,ep=4"),
              ElementsAre("0 1 2", "3 4 5", "6 7", "8 9"));
  EXPECT_THAT(dealt(grouped, "vllm:dp=4,ep=4,placement=round_robin"),
              ElementsAre("0 4 8", "1 5 9", "2 6", "3 7"));
  EXPECT_THAT(dealt(Deepseek(1, 10), "vllm:dp=4,ep=4,placement=round_robin"),
              ElementsAre("0 1 2", "3 4 5", "6 7", "8 9"));
  EXPECT_THAT(dealt(Deepseek(1, 4), "vllm:dp=3,ep=3,redundant=2"),
              ElementsAre("0 1", "2 3", "0 1"));
}

TEST(GoldenFamiliesTest, W13ATableForEachLayer) {
  const std::string path = absl::StrCat(
      ::testing::TempDir(), "/golden_families_test_", getpid(), ".json");
  std::ofstream(path) << "{\"physical_to_logical\": [[0,1,2,3,0,1], "
                         "[3,3,2,1,0,3]]}";
  // The first layer is dense: lists count layers with experts.
  const Family family = Deepseek(3, 4, ", \"first_k_dense_replace\": 1");
  const auto dealt = [&](int64_t layer, const std::string& framework) {
    std::vector<std::string> lists;
    const bool is_vllm = framework == "vllm:dp=3";
    for (const RankLayout& layout :
         AllRanks(family, framework + ",ep=3,eplb=" + path)) {
      EXPECT_EQ(layout.layout_spec.find(path + "@") == std::string::npos,
                false);
      lists.push_back(
          Dealt(layout,
                absl::StrCat("model.layers.", layer, ".mlp.experts.",
                             is_vllm ? "routed_experts." : "", "w13_weight")));
    }
    return lists;
  };
  EXPECT_THAT(dealt(1, "vllm:dp=3"), ElementsAre("0 1", "2 3", "0 1"));
  EXPECT_THAT(dealt(2, "vllm:dp=3"), ElementsAre("3 3", "2 1", "0 3"));
}

TEST(GoldenFamiliesTest, W17ExpertsOfFsdp) {
  const auto experts = [](int64_t num_experts, const std::string& name) {
    std::vector<std::string> lists;
    for (const RankLayout& layout :
         AllRanks(Deepseek(1, num_experts), "fsdp:shard=4,ep=2")) {
      lists.push_back(Dealt(layout, "model.layers.0.mlp.experts." + name));
    }
    return lists;
  };
  EXPECT_THAT(experts(8, "gate_up_proj"),
              ElementsAre("0 1", "4 5", "2 3", "6 7"));
  EXPECT_THAT(experts(6, "down_proj"), ElementsAre("0 1", "3 4", "2", "5"));
}

TEST(GoldenFamiliesTest, ExpertsOfFsdpThatAreNot) {
  const Family llama{"LlamaForCausalLM", R"("hidden_size": 2,
    "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2,
    "vocab_size": 4)"};
  EXPECT_THAT(
      std::string(TryLayout(llama, "fsdp:shard=2,ep=2", 0).status().message()),
      HasSubstr("ep=2: the model has no experts"));
  EXPECT_THAT(
      std::string(
          TryLayout(Deepseek(1, 3), "fsdp:shard=2,ep=2", 0).status().message()),
      HasSubstr("ep=2 does not divide the 3 experts"));
}

TEST(GoldenFamiliesTest, ExpertsOfFsdpCutByTensorParallelism) {
  // "packed_colwise": the halves of gate_up_proj are cut apart.
  const RankLayout second = LayoutOf(Deepseek(1, 2), "fsdp:shard=2,tp=2", 1);
  const std::map<std::string, std::string> labels = {{"0.gate_proj", "g0"},
                                                     {"0.up_proj", "u0"}};
  const layout::StoredTensor& fused =
      *FindStored(second, "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(fused.shape, (tensor::Shape{1, 2, 4}));
  const std::vector<Origin> origins = OriginsOf(second, fused);
  EXPECT_EQ(origins[0],
            (Origin{"model.layers.0.mlp.experts.0.gate_proj.weight", 1, 0}));
  EXPECT_EQ(origins[4],
            (Origin{"model.layers.0.mlp.experts.0.up_proj.weight", 1, 0}));
  const layout::StoredTensor& down =
      *FindStored(second, "model.layers.0.mlp.experts.down_proj");
  EXPECT_EQ(down.shape, (tensor::Shape{1, 4, 1}));
  EXPECT_EQ(OriginsOf(second, down)[3],
            (Origin{"model.layers.0.mlp.experts.0.down_proj.weight", 3, 1}));
}

TEST(GoldenFamiliesTest, W25LatentAttention) {
  const Family family = Deepseek(1, 2);  // N=2, Pn=2, Dv=3, kl=2, Rr=4
  const std::map<std::string, std::string> labels = {
      {"kv_b_proj", "b"}, {"q_a_proj", "q"}, {"kv_a_proj", "kv"}};
  EXPECT_THAT(Rows(family, "vllm:tp=2",
                   "model.layers.0.self_attn.kv_b_proj.weight", labels),
              ElementsAre("b[0..4]", "b[5..9]"));
  const std::string down =
      "decoder.layers.0.self_attention.linear_qkv_down_proj.weight";
  const std::string cut =
      "megatron:tp=2,impl=local,mla=fused,experts=sequential";
  EXPECT_THAT(Rows(family, cut, down, labels),
              ElementsAre("q[0..1] kv[0..2]", "q[2..3] kv[3..5]"));
  EXPECT_EQ(Compose(family, cut, down, "vllm",
                    "model.layers.0.self_attn.fused_qkv_a_proj.weight"),
            std::vector<std::string>{"M0[0..1] M1[0..1] M0[2..4] M1[2..4]"});
  // Transformer Engine's are whole on each rank.
  EXPECT_THAT(Rows(family, "megatron:tp=2,mla=fused", down, labels),
              ElementsAre("q[0..3] kv[0..5]", "q[0..3] kv[0..5]"));
}

TEST(GoldenFamiliesTest, W26VirtualStages) {
  const Family llama{"LlamaForCausalLM", R"("hidden_size": 2,
    "num_hidden_layers": 8, "num_attention_heads": 1, "intermediate_size": 2,
    "vocab_size": 4)"};
  const auto held = [&](const std::string& spec) {
    std::vector<std::string> texts;
    for (const RankLayout& layout : AllRanks(llama, spec)) {
      std::string& text = texts.emplace_back();
      for (const layout::StoredTensor& stored : layout.stored) {
        const bool is_norm =
            stored.name.find("linear_qkv.layer_norm") != std::string::npos;
        if (!is_norm && stored.name.find("layers.") != std::string::npos) {
          continue;
        }
        const std::string layer =
            OriginsOf(layout, stored)[0].tensor;  // model.layers.5.input...
        const bool numbered = layer.rfind("model.layers.", 0) == 0;
        absl::StrAppend(
            &text, text.empty() ? "" : " ",
            stored.name.substr(0, stored.name.find('.')),
            is_norm ? stored.name.substr(stored.name.find("layers.") + 6, 2)
                    : ".",
            numbered ? "=" + layer.substr(13, 1) : "");
      }
    }
    return texts;
  };
  EXPECT_THAT(held("megatron:pp=2,vpp=2"),
              ElementsAre("model0. model0.0=0 model0.1=1 model1.0=4 model1.1=5",
                          "model0.0=2 model0.1=3 model1.0=6 model1.1=7 model1. "
                          "model1."));
  EXPECT_THAT(held("megatron:pp=2,vpp=2,layout=Ett|t|tt|tttL"),
              ElementsAre("model0. model0.0=0 model0.1=1 model1.0=3 model1.1=4",
                          "model0.0=2 model1.0=5 model1.1=6 model1.2=7 model1. "
                          "model1."));
}

Family TinyGptOss() {
  return {"GptOssForCausalLM", R"("hidden_size": 3, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2,
    "intermediate_size": 4, "num_local_experts": 2, "vocab_size": 64)"};
}

// [e] of a stack, row by row: the coordinates of the column 0 (or of row r of a
// stack of vectors) in the logical tensor, last two dimensions.
std::vector<std::vector<int64_t>> EntryColumn(const RankLayout& layout,
                                              const std::string& name,
                                              int64_t entry) {
  const layout::StoredTensor& stored = *FindStored(layout, name);
  const bool is_matrix = stored.shape.size() == 3;
  std::vector<std::vector<int64_t>> rows(stored.shape[1]);
  const int64_t width = is_matrix ? stored.shape[2] : 1;
  for (const layout::Fragment& fragment : stored.fragments) {
    Walk(fragment.map.box(), [&](const std::vector<int64_t>& x) {
      const int64_t at =
          fragment.map.OffsetOf(x) - entry * stored.shape[1] * width;
      if (at < 0 || at >= stored.shape[1] * width || at % width != 0) return;
      rows[at / width] = x;
    });
  }
  return rows;
}

TEST(GoldenFamiliesTest, W27AlternateColumns) {
  const Family family = TinyGptOss();
  const std::string experts = "decoder.layers.0.mlp.experts.";
  // Megatron: gates (even columns), then ups (odd ones), transposed.
  const RankLayout megatron =
      LayoutOf(family, "megatron:tp=2,dp=2,ep=2,etp=1", 1);
  const layout::StoredTensor& fc1 =
      *FindStored(megatron, experts + "linear_fc1.weight0");
  EXPECT_EQ(fc1.shape, (tensor::Shape{8, 3}));
  EXPECT_EQ(fc1.fragments.size(), 1u);
  std::vector<int64_t> columns(8, -1);
  Walk(fc1.fragments[0].map.box(), [&](const std::vector<int64_t>& x) {
    EXPECT_EQ(x[0], 1);  // the expert of this rank
    const int64_t at = fc1.fragments[0].map.OffsetOf(x);
    EXPECT_EQ(at % 3, x[1]);
    columns[at / 3] = x[2];
  });
  EXPECT_THAT(columns, ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));

  const RankLayout second = LayoutOf(family, "vllm:tp=2", 1);
  const std::string routed = "model.layers.0.mlp.experts.routed_experts.";
  for (int64_t e = 0; e < 2; ++e) {
    const auto w13 = EntryColumn(second, routed + "w13_weight", e);
    ASSERT_EQ(w13.size(), 4u);
    for (int64_t j = 0; j < 4; ++j) {
      EXPECT_EQ(w13[j], (std::vector<int64_t>{e, 0, 4 + j}));
    }
    const auto bias = EntryColumn(second, routed + "w13_bias", e);
    EXPECT_EQ(bias[1], (std::vector<int64_t>{e, 5}));
    // w2 [3, 2]: columns are rows 2 and 3 of down_proj.
    const auto w2 = EntryColumn(second, routed + "w2_weight", e);
    ASSERT_EQ(w2.size(), 3u);
    EXPECT_EQ(w2[1], (std::vector<int64_t>{e, 2, 1}));
  }
  const std::string w2_bias = routed + "w2_bias";
  EXPECT_TRUE(FindStored(second, w2_bias)->fragments.empty());
  EXPECT_EQ(FindStored(second, w2_bias)->zero_fill.size(), 2u);
  EXPECT_EQ(FindStored(second, w2_bias)->dtype, tensor::DType::kBF16);
  EXPECT_EQ(FindStored(second, w2_bias)->shape, (tensor::Shape{2, 3}));
  const RankLayout first = LayoutOf(family, "vllm:tp=2", 0);
  EXPECT_TRUE(FindStored(first, w2_bias)->zero_fill.empty());
  // An expert of a stack in the file is one fragment with all experts.
  EXPECT_EQ(FindStored(first, routed + "w13_weight")->fragments.size(), 1u);
}

Family Mamba(int64_t heads, int64_t groups) {
  return {"NemotronHForCausalLM",
          absl::StrCat(R"("hidden_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 4, "head_dim": 2, "vocab_size": 64,
    "hybrid_override_pattern": "M", "mamba_head_dim": 2, "ssm_state_size": 2,
    "conv_kernel": 4, "mamba_num_heads": )",
                       heads, ", \"n_groups\": ", groups)};
}

TEST(GoldenFamiliesTest, W28Mamba) {
  const Family family = Mamba(4, 2);
  const std::map<std::string, std::string> labels = {{"in_proj", "x"},
                                                     {"conv1d", "c"}};
  const std::vector<std::string> in_proj = {
      "x[0..3] x[8..11] x[16..17] x[20..21] x[24..25]",
      "x[4..7] x[12..15] x[18..19] x[22..23] x[26..27]"};
  EXPECT_EQ(
      Rows(family, "vllm:tp=2", "model.layers.0.mixer.in_proj.weight", labels),
      in_proj);
  EXPECT_EQ(Rows(family, "megatron:tp=2",
                 "decoder.layers.0.mixer.in_proj.weight", labels),
            in_proj);
  EXPECT_THAT(
      Rows(family, "vllm:tp=2", "model.layers.0.mixer.conv1d.bias", labels),
      ElementsAre("c[0..3] c[8..9] c[12..13]", "c[4..7] c[10..11] c[14..15]"));
  // A is -exp(A_log), f32, in vLLM and nowhere else.
  const RankLayout vllm = LayoutOf(family, "vllm:tp=2,dtype=bf16", 1);
  const layout::StoredTensor& a = *FindStored(vllm, "model.layers.0.mixer.A");
  EXPECT_EQ(a.dtype, tensor::DType::kF32);
  EXPECT_EQ(a.fragments.at(0).transform, tensor::Transform::kNegExp);
  EXPECT_EQ(OriginsOf(vllm, a)[0],
            (Origin{"backbone.layers.0.mixer.A_log", 2, -1}));
  const RankLayout megatron = LayoutOf(family, "megatron:dtype=bf16", 0);
  const layout::StoredTensor& log =
      *FindStored(megatron, "decoder.layers.0.mixer.A_log");
  EXPECT_EQ(log.fragments.at(0).transform, tensor::Transform::kNone);
  EXPECT_EQ(log.dtype, tensor::DType::kF32);
}

TEST(GoldenFamiliesTest, W28RealMamba) {
  Family family = Nemotron3Nano();
  const RankLayout layout = LayoutOf(family, "vllm:tp=4,ep=4", 1);
  const layout::StoredTensor& in_proj =
      *FindStored(layout, "model.layers.0.mixer.in_proj.weight");
  EXPECT_EQ(in_proj.shape, (tensor::Shape{10304 / 4, 2688}));
  std::vector<std::string> rows;
  for (const layout::Fragment& fragment : in_proj.fragments) {
    const tensor::Range range = fragment.map.box().range(0);
    rows.push_back(absl::StrCat(range.begin, "-", range.end - 1));
  }
  EXPECT_THAT(rows, ElementsAre("1024-2047", "5120-6143", "8448-8703",
                                "9472-9727", "10256-10271"));
}

TEST(GoldenFamiliesTest, ASharedExpertIsOneMoreOfSglang) {
  Family family = DeepseekV3();
  family.fields.replace(family.fields.find("\"num_hidden_layers\": 61"), 23,
                        "\"num_hidden_layers\": 4 ");
  const std::string moe = "model.layers.3.mlp.";
  const RankLayout fused = LayoutOf(family, "sglang:tp=8,dp=2", 5);
  EXPECT_EQ(FindStored(fused, moe + "experts.w13_weight")->shape,
            (tensor::Shape{257, 512, 7168}));
  EXPECT_EQ(FindStored(fused, moe + "shared_experts.down_proj.weight"),
            nullptr);
  const layout::StoredTensor& w2 =
      *FindStored(fused, moe + "experts.w2_weight");
  const layout::Fragment& last = w2.fragments.back();
  EXPECT_EQ(fused.tensors[last.tensor].name,
            moe + "shared_experts.down_proj.weight");
  EXPECT_EQ(last.map.box().range(1), (tensor::Range{5 * 256, 6 * 256}));
  // Attention is cut over the four ranks of one data-parallel group.
  EXPECT_EQ(
      FindStored(fused, "model.layers.0.self_attn.q_b_proj.weight")->shape[0],
      128 * 192 / 4);
  EXPECT_EQ(FindStored(fused, "model.embed_tokens.weight")->shape[0],
            129280 / 4);
  EXPECT_EQ(FindStored(fused, "lm_head.weight")->shape[0], 129280 / 8);
  // Not with experts dealt out, nor where it is switched off.
  for (const char* spec :
       {"sglang:tp=8,ep=4", "sglang:tp=8,shared_fusion=off"}) {
    EXPECT_NE(FindStored(LayoutOf(family, spec, 5),
                         moe + "shared_experts.down_proj.weight"),
              nullptr);
  }
  // ep=4 of tp=8: two ranks cut each expert, the faster of the two axes.
  const RankLayout by_ep = LayoutOf(family, "sglang:tp=8,ep=4", 5);
  const layout::StoredTensor& dealt =
      *FindStored(by_ep, moe + "experts.w13_weight");
  EXPECT_EQ(dealt.shape, (tensor::Shape{64, 2048, 7168}));
  EXPECT_EQ(dealt.fragments.at(0).map.box().range(0),
            (tensor::Range{1024, 2048}));
}

TEST(GoldenFamiliesTest, LayersForMultiTokenPrediction) {
  Family family = Deepseek(2, 2, ", \"num_nextn_predict_layers\": 1");
  family.held = {"model.layers.2.eh_proj.weight"};
  const std::vector<std::string> last =
      Names(LayoutOf(family, "megatron:pp=2,vocab_divisor=1", 1));
  EXPECT_THAT(
      last,
      AllOf(::testing::Contains("mtp.layers.0.enorm.weight"),
            ::testing::Contains("mtp.layers.0.eh_proj.weight"),
            ::testing::Contains("mtp.layers.0.final_layernorm.weight"),
            ::testing::Contains("mtp.layers.0.mtp_model_layer.self_attention."
                                "linear_kv_up_proj.weight"),
            ::testing::Contains("embedding.word_embeddings.weight")));
  EXPECT_THAT(Names(LayoutOf(family, "megatron:pp=2,mtp=transformer_layer", 1)),
              ::testing::Contains("mtp.layers.0.transformer_layer.mlp.router."
                                  "expert_bias"));
  // The main model of an engine has none; a checkpoint without them is whole.
  for (const std::string& name : Names(LayoutOf(family, "vllm", 0))) {
    EXPECT_EQ(name.find("layers.2."), std::string::npos) << name;
  }
  // Nor does transformers load them.
  const std::string enorm = "model.layers.2.enorm.weight";
  EXPECT_EQ(FindStored(LayoutOf(family, "fsdp", 0), enorm), nullptr);
  const RankLayout as_file = LayoutOf(family, "fsdp:names=hf", 0);
  EXPECT_NE(FindStored(as_file, enorm), nullptr);
  family.held.clear();
  EXPECT_TRUE(TryLayout(family, "megatron", 0).ok());
  // But not with a part of them.
  std::vector<tensor::TensorSpec> torn = CheckpointOf(family);
  torn.push_back(
      {"model.layers.2.eh_proj.weight", tensor::DType::kBF16, {4, 8}});
  EXPECT_THAT(
      std::string(
          RecipeOf(family)
              .Layout(ConfigOf(family), ParseLayoutSpec("hf").value(), 0, torn)
              .status()
              .message()),
      HasSubstr("\"model.layers.2.enorm.weight\" of shape [4] is missing"));
}

TEST(GoldenFamiliesTest, TokensAreCutAndNotTheSharedExpert) {
  const Family family = Deepseek(1, 4);
  const std::string name =
      "model.layers.0.mlp.shared_experts.gate_up_proj.weight";
  const auto rows = [&](const std::string& spec) {
    return FindStored(LayoutOf(family, spec, 1), name)->shape[0];
  };
  EXPECT_EQ(rows("vllm:tp=2,dp=2,ep=4"), 4);
  EXPECT_EQ(rows("vllm:tp=2,ep=2"), 2);
  EXPECT_EQ(rows("vllm:tp=2,dp=1"), 2);
}

TEST(GoldenFamiliesTest, PinnedDTypes) {
  const Family family{"Glm4MoeForCausalLM", R"("hidden_size": 4,
    "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 2,
    "intermediate_size": 4, "moe_intermediate_size": 2, "n_routed_experts": 2,
    "n_shared_experts": 1, "vocab_size": 64)"};
  const auto dtype = [&](const std::string& spec, const std::string& name) {
    return FindStored(LayoutOf(family, spec, 0), name)->dtype;
  };
  const std::string bias = "model.layers.0.mlp.gate.e_score_correction_bias";
  EXPECT_EQ(dtype("hf:dtype=bf16", bias), tensor::DType::kF32);
  EXPECT_EQ(dtype("fsdp:shard=2,dtype=f16", bias), tensor::DType::kF32);
  // A buffer: whole on every rank.
  EXPECT_EQ(FindStored(LayoutOf(family, "fsdp:shard=2", 1), bias)->shape,
            (tensor::Shape{2}));
  EXPECT_EQ(dtype("vllm:dtype=bf16", bias), tensor::DType::kF32);
  EXPECT_EQ(dtype("megatron", "decoder.layers.0.mlp.router.expert_bias"),
            tensor::DType::kF32);
  EXPECT_EQ(dtype("vllm:dtype=bf16", "model.layers.0.mlp.gate.weight"),
            tensor::DType::kF32);
  EXPECT_EQ(dtype("vllm:dtype=f16", "model.norm.weight"), tensor::DType::kF16);
}

TEST(GoldenFamiliesTest, ANormThatMegatronHoldsLessOne) {
  Family family = Qwen3Next(2, 1);
  family.fields += ", \"layer_types\": [\"linear_attention\"]";
  const RankLayout layout = LayoutOf(family, "megatron", 0);
  for (const layout::StoredTensor& stored : layout.stored) {
    const bool is_out_norm = stored.name.find("out_norm") != std::string::npos;
    for (const layout::Fragment& fragment : stored.fragments) {
      EXPECT_EQ(fragment.transform, is_out_norm ? tensor::Transform::kMinusOne
                                                : tensor::Transform::kNone)
          << stored.name;
    }
  }
}

// Trap 5: what Megatron Bridge writes is not what the runtime computes with.
TEST(GoldenFamiliesTest, CutExpertsOfGptOssAreRefusedByBothNames) {
  const Family family = {"GptOssForCausalLM", R"(
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 3, "intermediate_size": 8,
    "vocab_size": 66, "num_local_experts": 4, "attention_bias": true)"};
  for (const std::string spec : {"megatron:tp=2,etp=2,vocab_divisor=1",
                                 "megatron:tp=2,vocab_divisor=1"}) {
    EXPECT_THAT(std::string(TryLayout(family, spec, 0).status().message()),
                AllOf(HasSubstr("etp=2"), HasSubstr("Megatron-Core"),
                      HasSubstr("Megatron Bridge"), HasSubstr("give etp=1")));
  }
  EXPECT_TRUE(TryLayout(family, "megatron:tp=2,etp=1,vocab_divisor=1", 0).ok());
}

TEST(GoldenFamiliesTest, OriginsNameTheRule) {
  const RankLayout layout = LayoutOf(Deepseek(1, 2), "vllm", 0);
  for (std::size_t i = 0; i < layout.stored.size(); ++i) {
    const bool is_attention =
        layout.stored[i].name.find("self_attn") != std::string::npos;
    EXPECT_THAT(
        layout.origins[i],
        HasSubstr(is_attention ? "include/attention_mla.yaml:" : "include/"));
  }
  EXPECT_THAT(LayoutOf(Deepseek(1, 2), "hf", 0).origins[0],
              HasSubstr("include/decoder.yaml:"));
}

}  // namespace
}  // namespace weft::recipe::testing
