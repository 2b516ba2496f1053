// The worked examples W18, W23 and W29 of block FP8: scales are fused and cut
// as the rows that they stand for; and what checkpoints and trainers in FP8
// come to.

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/testing/families.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::map<std::string, std::string>& Qkv() {
  static const auto* const kLabels = new std::map<std::string, std::string>{
      {"q_proj", "q"}, {"k_proj", "k"}, {"v_proj", "v"}};
  return *kLabels;
}

TEST(GoldenQuantTest, W23ScalesOfFusedHeads) {
  const Family qwen{"Qwen3MoeForCausalLM", R"("hidden_size": 2048,
    "num_hidden_layers": 1, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
    "moe_intermediate_size": 1024, "num_experts": 1, "vocab_size": 64)"};
  for (int64_t r = 0; r < 8; ++r) {
    const RankLayout layout = LayoutOf(qwen, "vllm:tp=8,quant=fp8-block", r);
    const std::string name = "model.layers.0.self_attn.qkv_proj.weight";
    EXPECT_EQ(FindStored(layout, name)->dtype, tensor::DType::kF8E4M3);
    EXPECT_EQ(FindStored(layout, name)->shape, (tensor::Shape{768, 2048}));
    const layout::StoredTensor& scales =
        *FindStored(layout, name + "_scale_inv");
    EXPECT_EQ(scales.dtype, tensor::DType::kF32);
    EXPECT_EQ(scales.shape, (tensor::Shape{6, 16}));
    EXPECT_EQ(RowsOf(layout, name + "_scale_inv", Qkv()),
              absl::StrCat("q[", 4 * r, "..", 4 * r + 3, "] k[", r / 2, "] v[",
                           r / 2, "]"));
    EXPECT_EQ(FindStored(layout, "model.layers.0.mlp.gate.weight")->dtype,
              tensor::DType::kBF16);
    // Each quantised matrix is tied to its scales.
    for (const layout::ScaledTensor& scaled : layout.scaled) {
      EXPECT_EQ(layout.tensors[scaled.scales].name,
                layout.tensors[scaled.tensor].name + "_scale_inv");
      EXPECT_EQ(layout.tensors[scaled.tensor].dtype, tensor::DType::kBF16);
    }
    EXPECT_EQ(layout.scaled.size(), 4u + 3u);
  }
  const RankLayout second = LayoutOf(
      {"LlamaForCausalLM", R"("hidden_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 128, "intermediate_size": 256,
        "vocab_size": 64)"},
      "vllm:tp=2,quant=fp8-block", 1);
  EXPECT_EQ(RowsOf(second, "model.layers.0.mlp.gate_up_proj.weight_scale_inv",
                   {{"gate_proj", "g"}, {"up_proj", "u"}}),
            "g[1] u[1]");
}

TEST(GoldenQuantTest, W23ScalesOfLatentAttention) {
  Family family = DeepseekV3();
  const auto at = family.fields.find("\"num_hidden_layers\": 61");
  family.fields.replace(at, 23, "\"num_hidden_layers\": 1 ");
  const RankLayout layout = LayoutOf(family, "vllm:tp=8,quant=fp8-block", 3);
  const std::string name =
      "model.layers.0.self_attn.fused_qkv_a_proj.weight_scale_inv";
  EXPECT_EQ(FindStored(layout, name)->shape, (tensor::Shape{17, 56}));
  EXPECT_EQ(RowsOf(layout, name, {{"q_a_proj", "q"}, {"kv_a_proj", "kv"}}),
            "q[0..11] kv[0..4]");
  const RankLayout sglang = LayoutOf(family, "sglang:tp=8,quant=fp8-block", 3);
  EXPECT_NE(FindStored(sglang,
                       "model.layers.0.self_attn.fused_qkv_a_proj_with_"
                       "mqa.weight_scale_inv"),
            nullptr);
}

// 130 x 200, of which blocks are 2 x 2: an int32 for each row, columns of them
// aligned to four.
TEST(GoldenQuantTest, W18ScalesAsDeepGemmPacksThem) {
  const Family family{"Qwen3ForCausalLM", R"("hidden_size": 130,
    "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 200, "intermediate_size": 256,
    "vocab_size": 64, "tie_word_embeddings": true)"};
  const absl::StatusOr<RankLayout> refused =
      TryLayout(family, "vllm:quant=fp8-block,scales=ue8m0-packed", 0);
  // Heads of 200 rows do not begin with blocks.
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("k_proj.weight\" at stored row 200"));
  Family aligned = family;
  aligned.fields.replace(aligned.fields.find("200"), 3, "256");
  const RankLayout layout =
      LayoutOf(aligned, "vllm:quant=fp8-block,scales=ue8m0-packed", 0);
  const layout::StoredTensor& scales =
      *FindStored(layout, "model.layers.0.self_attn.o_proj.weight_scale_inv");
  EXPECT_EQ(scales.dtype, tensor::DType::kF8E8M0);
  EXPECT_EQ(scales.shape, (tensor::Shape{1, 132, 4}));
  // Row i, byte m: exp(i / 128, m).
  for (const layout::Fragment& fragment : scales.fragments) {
    for (int64_t block = fragment.map.box().range(0).begin;
         block < fragment.map.box().range(0).end; ++block) {
      for (int64_t m = 0; m < 2; ++m) {
        const int64_t at = fragment.map.OffsetOf({block, m});
        EXPECT_EQ(at % 4, m);
        EXPECT_EQ(at / 4 / 128, block);
      }
    }
  }
  EXPECT_EQ(scales.fragments.size(), 128u);
  EXPECT_TRUE(layout::CheckTiling(scales, layout.tensors,
                                  /*allow_holes=*/false)
                  .ok());
}

// Half = Ip rows (or Ip / 128 rows of scales) change places: row i of what
// kernels with [up; gate] take is row (i + half) mod 2 half of what is loaded.
TEST(GoldenQuantTest, W29HalvesForKernelsWithUpFirst) {
  constexpr char kYaml[] = R"(
recipe: 1
family: halves
architectures: [HalvesLM]
config:
  I: {key: intermediate_size}
layers: 1
checkpoint:
  tensors:
    - {name: gate, shape: [I, 2], quant: yes}
    - {name: up, shape: [I, 2], quant: yes}
vllm:
  tensors:
    - {name: w13, quant: yes, concat: [of: gate, of: up]}
    - {name: w31, quant: yes, concat: [of: up, of: gate]}
)";
  const auto recipe = ParseRecipe(kYaml, "halves.yaml").value();
  const auto rows_change_places = [&](int64_t width, const std::string& spec,
                                      const std::string& suffix) {
    ModelConfig config;
    config.architecture = "HalvesLM";
    config.numbers = {{"intermediate_size", width}};
    const RankLayout layout =
        recipe
            ->Layout(config, ParseLayoutSpec(spec).value(), 0,
                     recipe->LogicalTensors(config).value())
            .value();
    const layout::StoredTensor& loaded = *FindStored(layout, "w13" + suffix);
    const layout::StoredTensor& kernel = *FindStored(layout, "w31" + suffix);
    EXPECT_EQ(loaded.shape, kernel.shape);
    const std::vector<Origin> from = OriginsOf(layout, loaded);
    const std::vector<Origin> to = OriginsOf(layout, kernel);
    const int64_t columns = loaded.shape[1];
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < kernel.shape[0]; ++i) {
      const auto at = std::find(from.begin(), from.end(), to[i * columns]);
      rows.push_back((at - from.begin()) / columns);
    }
    return rows;
  };
  EXPECT_EQ(rows_change_places(4, "vllm", ""),
            (std::vector<int64_t>{4, 5, 6, 7, 0, 1, 2, 3}));
  EXPECT_EQ(rows_change_places(4, "vllm:quant=fp8-channel", "_scale"),
            (std::vector<int64_t>{4, 5, 6, 7, 0, 1, 2, 3}));
  EXPECT_EQ(rows_change_places(256, "vllm:quant=fp8-block", "_scale_inv"),
            (std::vector<int64_t>{2, 3, 0, 1}));
}

TEST(GoldenQuantTest, CutsThroughBlocksAreRefused) {
  const Family qwen{"Qwen3MoeForCausalLM", R"("hidden_size": 256,
    "num_hidden_layers": 1, "num_attention_heads": 8,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 256,
    "moe_intermediate_size": 768, "num_experts": 4, "vocab_size": 64)"};
  EXPECT_TRUE(TryLayout(qwen, "vllm:tp=2,quant=fp8-block", 0).ok());
  EXPECT_THAT(
      std::string(
          TryLayout(qwen, "vllm:tp=4,quant=fp8-block", 0).status().message()),
      AllOf(HasSubstr("rows [0,192) of "), HasSubstr("gate_proj"),
            HasSubstr("do not begin and end with blocks of 128")));
  // Whole experts need no cut.
  EXPECT_TRUE(TryLayout(qwen, "vllm:tp=4,ep=4,quant=fp8-block", 0).ok());
}

TEST(GoldenQuantTest, AQuantisedCheckpointPassesThrough) {
  Family family{"Qwen3ForCausalLM", R"("hidden_size": 256,
    "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 200,
    "vocab_size": 64)"};
  const std::string layer = "model.layers.0.";
  for (const char* name :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
        "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    family.held.push_back(absl::StrCat(layer, name, ".weight_scale_inv"));
  }
  const std::vector<tensor::TensorSpec> checkpoint = CheckpointOf(family);
  EXPECT_EQ(checkpoint.size(), 14u + 7u);
  const RankLayout hf = LayoutOf(family, "hf", 0);
  EXPECT_EQ(FindStored(hf, layer + "mlp.down_proj.weight")->dtype,
            tensor::DType::kF8E4M3);
  EXPECT_EQ(FindStored(hf, layer + "mlp.down_proj.weight_scale_inv")->shape,
            (tensor::Shape{2, 2}));
  const RankLayout bf16 = LayoutOf(family, "hf:dtype=bf16", 0);
  EXPECT_EQ(FindStored(bf16, layer + "mlp.down_proj.weight_scale_inv")->dtype,
            tensor::DType::kF32);
  // gate is 200 rows, so up would begin within a block.
  EXPECT_THAT(
      std::string(
          TryLayout(family, "vllm:quant=fp8-block", 0).status().message()),
      HasSubstr("mlp.up_proj.weight\" at stored row 200"));
  family.fields.replace(family.fields.find("200"), 3, "384");
  const RankLayout vllm = LayoutOf(family, "vllm:tp=1,quant=fp8-block", 0);
  EXPECT_TRUE(vllm.scaled.empty());
  EXPECT_EQ(RowsOf(vllm, layer + "mlp.gate_up_proj.weight_scale_inv",
                   {{"gate_proj", "g"}, {"up_proj", "u"}}),
            "g[0..2] u[0..2]");
  EXPECT_THAT(std::string(TryLayout(family, "vllm", 0).status().message()),
              AllOf(HasSubstr("with a scale for each block of 128 x 128, but"),
                    HasSubstr("give quant=fp8-block")));
  for (const char* other :
       {"vllm:quant=fp8-block,scales=ue8m0", "vllm:quant=fp8-channel"}) {
    EXPECT_THAT(std::string(TryLayout(family, other, 0).status().message()),
                HasSubstr("would quantise it anew; give quant=fp8-block"));
  }
  EXPECT_THAT(std::string(TryLayout(family, "megatron", 0).status().message()),
              HasSubstr("only hf and fsdp:names=hf hold it"));
}

TEST(GoldenQuantTest, ATrainersRankOffersWhatItHoldsWhole) {
  const Family family{"Qwen3ForCausalLM", R"("hidden_size": 256,
    "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 256,
    "vocab_size": 64)"};
  for (const char* spec : {"fsdp:shard=2,quant=fp8-block",
                           "megatron:quant=fp8-block", "hf:quant=fp8-block"}) {
    const RankLayout layout = LayoutOf(family, spec, 0);
    EXPECT_EQ(layout.layout_spec, spec);
    EXPECT_EQ(layout.scaled.size(), 7u) << spec;
    for (const layout::StoredTensor& stored : layout.stored) {
      EXPECT_EQ(stored.dtype, tensor::DType::kBF16) << stored.name;
    }
  }
}

}  // namespace
}  // namespace weft::recipe::testing
