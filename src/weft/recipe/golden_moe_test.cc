// The worked examples W11, W12, W13 and W32 of mixtures of experts, every
// expectation typed from the text; counts, names and refusals of the families.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/testing/model.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kW13[] = "model.layers.0.mlp.experts.routed_experts.w13_weight";
constexpr char kW2[] = "model.layers.0.mlp.experts.routed_experts.w2_weight";

Model Qwen3Moe(int64_t E, int64_t Im, int64_t H) {
  return {.architecture = "Qwen3MoeForCausalLM",
          .H = H,
          .more = absl::StrCat("\"num_experts\": ", E,
                               ", \"moe_intermediate_size\": ", Im)};
}

std::vector<std::string> StoredNames(const RankLayout& layout) {
  std::vector<std::string> names;
  for (const auto& stored : layout.stored) names.push_back(stored.name);
  return names;
}

// Where the elements of one expert of a stack lie in the sources, as runs
// "(offset in the expert,P source offset,length)" in bytes of bf16; the source
// of rank r and local number j is written "r/j".
std::string ExpertRuns(const RankLayout& target, const std::string& name,
                       int64_t entry, const std::vector<RankLayout>& sources,
                       const std::string& source_name) {
  const layout::StoredTensor& stored = *FindStored(target, name);
  const std::vector<Origin> origins = OriginsOf(target, stored);
  const int64_t size = stored.shape[1] * stored.shape[2];
  std::map<Origin, std::pair<std::string, int64_t>> where;
  for (const RankLayout& source : sources) {
    for (int64_t j = 0;; ++j) {
      const layout::StoredTensor* const held =
          FindStored(source, absl::StrCat(source_name, j));
      if (held == nullptr) break;
      const std::vector<Origin> elements = OriginsOf(source, *held);
      for (std::size_t i = 0; i < elements.size(); ++i) {
        where.emplace(elements[i],
                      std::pair(absl::StrCat(source.rank, "/", j), i));
      }
    }
  }
  std::string text;
  for (int64_t i = 0; i < size;) {
    const auto [from, offset] = where.at(origins[entry * size + i]);
    int64_t j = i + 1;
    while (j < size) {
      const auto& next = where.at(origins[entry * size + j]);
      if (next.first != from || next.second != offset + j - i) break;
      ++j;
    }
    absl::StrAppend(&text, text.empty() ? "" : " ", "(", 2 * i, ",", from, " ",
                    2 * offset, ",", 2 * (j - i), ")");
    i = j;
  }
  return text;
}

constexpr char kFc1[] = "decoder.layers.0.mlp.experts.linear_fc1.weight";
constexpr char kFc2[] = "decoder.layers.0.mlp.experts.linear_fc2.weight";

TEST(GoldenMoeTest, W11ExpertParallelToTensorParallel) {
  const Model model = Qwen3Moe(4, 4, 2);
  const std::vector<RankLayout> sources = AllRanks(model, "megatron:dp=2,ep=2");
  EXPECT_EQ(FindStored(sources[0], absl::StrCat(kFc1, 1))->shape,
            (tensor::Shape{8, 2}));
  const RankLayout first = LayoutOf(model, "vllm:tp=2", 0);
  const RankLayout second = LayoutOf(model, "vllm:tp=2", 1);
  EXPECT_EQ(FindStored(second, kW13)->shape, (tensor::Shape{4, 4, 2}));
  EXPECT_EQ(FindStored(second, kW2)->shape, (tensor::Shape{4, 2, 2}));
  for (int64_t e = 0; e < 4; ++e) {
    const std::string from = absl::StrCat(e / 2, "/", e % 2);
    EXPECT_EQ(ExpertRuns(second, kW13, e, sources, kFc1),
              absl::StrCat("(0,", from, " 8,8) (8,", from, " 24,8)"));
    EXPECT_EQ(ExpertRuns(first, kW13, e, sources, kFc1),
              absl::StrCat("(0,", from, " 0,8) (8,", from, " 16,8)"));
    EXPECT_EQ(ExpertRuns(second, kW2, e, sources, kFc2),
              absl::StrCat("(0,", from, " 4,4) (4,", from, " 12,4)"));
  }
}

TEST(GoldenMoeTest, W12ExpertTensorParallelToExpertParallel) {
  // (ep, etp) is rank 2 * ep + etp.
  const Model model{.architecture = "MixtralForCausalLM",
                    .H = 2,
                    .Hq = 4,
                    .G = 4,
                    .I = 4,
                    .more = "\"num_local_experts\": 4"};
  const std::vector<RankLayout> sources =
      AllRanks(model, "megatron:tp=2,dp=2,ep=2");
  for (int64_t p = 0; p < 4; ++p) {
    const RankLayout target = LayoutOf(model, "vllm:tp=4,ep=4", p);
    const auto from = [&](int64_t etp) {
      return absl::StrCat(p / 2 * 2 + etp, "/", p % 2);
    };
    // Rows of four bytes: two of each tensor-parallel rank, gate then up.
    EXPECT_EQ(
        ExpertRuns(
            target,
            "model.layers.0.block_sparse_moe.experts.routed_experts.w13_weight",
            0, sources, kFc1),
        absl::StrCat("(0,", from(0), " 0,8) (8,", from(1), " 0,8) (16,",
                     from(0), " 8,8) (24,", from(1), " 8,8)"));
    EXPECT_EQ(
        ExpertRuns(
            target,
            "model.layers.0.block_sparse_moe.experts.routed_experts.w2_weight",
            0, sources, kFc2),
        absl::StrCat("(0,", from(0), " 0,4) (4,", from(1), " 0,4) (8,", from(0),
                     " 4,4) (12,", from(1), " 4,4)"));
  }
}

// Numbers of the experts of each rank, told by the origin of their first row.
std::vector<std::string> Dealt(const Model& model, const std::string& spec,
                               const std::string& name) {
  std::vector<std::string> dealt;
  for (const RankLayout& layout : AllRanks(model, spec)) {
    const layout::StoredTensor& stored = *FindStored(layout, name);
    std::string& list = dealt.emplace_back();
    const std::vector<Origin> origins = OriginsOf(layout, stored);
    for (int64_t j = 0; j < stored.shape[0]; ++j) {
      const std::string& tensor =
          origins[j * stored.shape[1] * stored.shape[2]].tensor;
      const auto at = tensor.find("experts.") + 8;
      absl::StrAppend(&list, j > 0 ? " " : "",
                      tensor.substr(at, tensor.find('.', at) - at));
    }
  }
  return dealt;
}

TEST(GoldenMoeTest, W13LinearPlacement) {
  Model model = Qwen3Moe(10, 1, 1);
  model.Hq = model.G = 4;
  EXPECT_THAT(Dealt(model, "vllm:tp=4,ep=4", kW2),
              ElementsAre("0 1 2", "3 4 5", "6 7", "8 9"));
  // Data-parallel replicas of attention are ranks of the experts' grid; tensor
  // parallelism is fastest, pipeline stages are apart.
  model.Hq = model.G = 2;
  EXPECT_THAT(Dealt(model, "vllm:tp=2,dp=2,ep=4", kW2),
              ElementsAre("0 1 2", "3 4 5", "6 7", "8 9"));
  // Two experts on three ranks, six on four.
  model = Qwen3Moe(2, 1, 1);
  EXPECT_THAT(Dealt(model, "vllm:dp=3,ep=3", kW2), ElementsAre("0", "1", ""));
  model = Qwen3Moe(6, 1, 1);
  EXPECT_THAT(Dealt(model, "vllm:dp=4,ep=4", kW2),
              ElementsAre("0 1", "2 3", "4", "5"));
}

TEST(GoldenMoeTest, FusedMemoryInChunks) {
  // Eight experts over five ranks: 2 2 2 2 0.
  const Model model = Qwen3Moe(8, 2, 3);
  const std::string name = "model.layers.0.mlp.experts.gate_up_proj";
  EXPECT_THAT(Dealt(model, "fsdp:shard=5", name),
              ElementsAre("0 1", "2 3", "4 5", "6 7", ""));
  const RankLayout layout = LayoutOf(model, "fsdp:shard=5", 1);
  EXPECT_EQ(FindStored(layout, name)->shape, (tensor::Shape{2, 4, 3}));
  const std::vector<Origin> origins =
      OriginsOf(layout, *FindStored(layout, name));
  const std::string expert = "model.layers.0.mlp.experts.3.";
  EXPECT_EQ(origins[(4 + 1) * 3 + 2],
            (Origin{expert + "gate_proj.weight", 1, 2}));
  EXPECT_EQ(origins[(4 + 2) * 3], (Origin{expert + "up_proj.weight", 0, 0}));
  EXPECT_THAT(StoredNames(layout), Not(Contains(expert + "gate_proj.weight")));
  EXPECT_THAT(
      StoredNames(LayoutOf(model, "fsdp:shard=5,names=hf", 1)),
      AllOf(Contains(expert + "gate_proj.weight"), Not(Contains(name))));
  // Mixtral's block has another name in memory.
  const Model mixtral{.architecture = "MixtralForCausalLM",
                      .more = "\"num_local_experts\": 2"};
  EXPECT_THAT(StoredNames(LayoutOf(mixtral, "fsdp", 0)),
              AllOf(Contains("model.layers.0.mlp.gate.weight"),
                    Contains("model.layers.0.mlp.experts.down_proj"),
                    Not(Contains(HasSubstr("block_sparse_moe")))));
}

// W32, the experts of Qwen3-30B-A3B: Megatron ep=8, etp=1.
TEST(GoldenMoeTest, W32RealExperts) {
  Model model = Qwen3Moe(128, 768, 2048);
  model.Hq = 32;
  model.G = 4;
  model.D = 128;
  model.V = 64;
  const RankLayout source = LayoutOf(model, "megatron:dp=8,ep=8", 2);
  const RankLayout target = LayoutOf(model, "vllm:tp=4", 1);
  const int64_t e = 2 * 16 + 5;
  const auto* const fc1 = FindStored(source, absl::StrCat(kFc1, 5));
  const auto* const w13 = FindStored(target, kW13);
  ASSERT_NE(fc1, nullptr);
  EXPECT_EQ(w13->shape, (tensor::Shape{128, 384, 2048}));
  const auto map_of = [&](const RankLayout& layout,
                          const layout::StoredTensor& stored,
                          const std::string& part) -> const layout::IndexMap& {
    const std::string name =
        absl::StrCat("model.layers.0.mlp.experts.", e, ".", part, ".weight");
    for (const layout::Fragment& fragment : stored.fragments) {
      if (layout.tensors[fragment.tensor].name == name) return fragment.map;
    }
    static const layout::IndexMap kNone;
    ADD_FAILURE() << stored.name << " has nothing of " << name;
    return kNone;
  };
  const std::vector<int64_t> first{192, 0};  // gate or up row 192, column 0
  EXPECT_EQ(2 * map_of(source, *fc1, "gate_proj").OffsetOf(first), 786'432);
  EXPECT_EQ(2 * map_of(target, *w13, "gate_proj").OffsetOf(first),
            e * 1'572'864);
  EXPECT_EQ(2 * map_of(source, *fc1, "up_proj").OffsetOf(first), 3'932'160);
  EXPECT_EQ(2 * map_of(target, *w13, "up_proj").OffsetOf(first),
            e * 1'572'864 + 786'432);
  const auto* const fc2 = FindStored(source, absl::StrCat(kFc2, 5));
  const auto* const w2 = FindStored(target, kW2);
  const auto offset = [&](const RankLayout& layout,
                          const layout::StoredTensor& stored, int64_t row) {
    const std::vector<int64_t> at{row, 192};
    return 2 * map_of(layout, stored, "down_proj").OffsetOf(at);
  };
  EXPECT_EQ(offset(source, *fc2, 0), 384);
  EXPECT_EQ(offset(source, *fc2, 1) - offset(source, *fc2, 0), 1536);
  EXPECT_EQ(offset(target, *w2, 0), e * 786'432);
  EXPECT_EQ(offset(target, *w2, 1) - offset(target, *w2, 0), 384);
  // With ep=8 in the engine too, an expert is one piece on both sides.
  model.G = 8;
  const RankLayout whole = LayoutOf(model, "vllm:tp=8,ep=8", 2);
  EXPECT_EQ(FindStored(whole, kW13)->shape, (tensor::Shape{16, 1536, 2048}));
}

TEST(MoeFamiliesTest, CountsAndTotals) {
  const auto count = [](const Model& model) {
    return RecipeFor(model).LogicalTensors(model.Config()).value().size();
  };
  Model qwen3 = Qwen3Moe(5, 2, 2);
  qwen3.L = 4;
  EXPECT_EQ(count(qwen3), 3u + 4 * (9 + 3 * 5));
  const Model mixtral{.architecture = "MixtralForCausalLM",
                      .L = 3,
                      .more = "\"num_local_experts\": 8"};
  EXPECT_EQ(count(mixtral), 3u + 3 * (7 + 3 * 8));
  // As transformers 5 saves it.
  Model saved = Qwen3Moe(5, 2, 2);
  saved.more = "\"num_local_experts\": 5, \"moe_intermediate_size\": 2";
  EXPECT_EQ(count(saved), 3u + 9 + 3 * 5);
  saved.more = "\"moe_intermediate_size\": 2";
  EXPECT_THAT(std::string(TryLayout(saved, "hf", 0).status().message()),
              HasSubstr("lacks the field num_experts"));
  // Layers 1 and 3 end a step of two; layer 3 is dense by name.
  qwen3.more += ", \"decoder_sparse_step\": 2, \"mlp_only_layers\": [3, 0]";
  EXPECT_EQ(count(qwen3), 3u + 3 * 11 + (9 + 3 * 5));
  const Model qwen2{.architecture = "Qwen2MoeForCausalLM",
                    .more =
                        "\"num_experts\": 4, \"moe_intermediate_size\": 2,"
                        " \"shared_expert_intermediate_size\": 4"};
  EXPECT_EQ(count(qwen2), 3u + 9 + 1 + 3 * 4 + 4);
  Model real = Qwen3Moe(128, 768, 2048);
  real.L = 48;
  real.Hq = 32;
  real.G = 4;
  real.D = 128;
  real.V = 151936;
  int64_t num_parameters = 0;
  const auto logical = RecipeFor(real).LogicalTensors(real.Config()).value();
  for (const tensor::TensorSpec& spec : logical) {
    int64_t num_elements = 1;
    for (const int64_t extent : spec.shape) num_elements *= extent;
    num_parameters += num_elements;
  }
  EXPECT_EQ(logical.size(), 18'867u);
  EXPECT_EQ(num_parameters, 30'532'122'624);
}

TEST(MoeFamiliesTest, NamesAndOrderInMegatron) {
  const Model model{.architecture = "Qwen2MoeForCausalLM",
                    .more =
                        "\"num_experts\": 4, \"moe_intermediate_size\": 2,"
                        " \"shared_expert_intermediate_size\": 4,"
                        " \"qkv_bias\": false"};
  const auto mlp = [&](const std::string& spec) {
    std::vector<std::string> names;
    const std::string prefix = "decoder.layers.0.";
    for (const std::string& name : StoredNames(LayoutOf(model, spec, 0))) {
      if (name.find("mlp") != std::string::npos) {
        names.push_back(name.substr(prefix.size()));
      }
    }
    return names;
  };
  EXPECT_THAT(mlp("megatron:dp=2,ep=2"),
              ElementsAre("pre_mlp_layernorm.weight", "mlp.router.weight",
                          "mlp.experts.linear_fc1.weight0",
                          "mlp.experts.linear_fc1.weight1",
                          "mlp.experts.linear_fc2.weight0",
                          "mlp.experts.linear_fc2.weight1",
                          "mlp.shared_experts.gate_weight",
                          "mlp.shared_experts.linear_fc1.weight",
                          "mlp.shared_experts.linear_fc2.weight"));
  EXPECT_THAT(mlp("megatron:dp=4,ep=4,experts=sequential,impl=local"),
              ElementsAre("pre_mlp_layernorm.weight", "mlp.router.weight",
                          "mlp.experts.local_experts.0.linear_fc1.weight",
                          "mlp.experts.local_experts.0.linear_fc2.weight",
                          "mlp.shared_experts.gate_weight",
                          "mlp.shared_experts.linear_fc1.weight",
                          "mlp.shared_experts.linear_fc2.weight"));
}

TEST(MoeFamiliesTest, AllFaultsAtOnce) {
  Model model = Qwen3Moe(6, 5, 2);
  model.L = 3;
  const auto error = [&](const std::string& spec) {
    return std::string(TryLayout(model, spec, 0).status().message());
  };
  EXPECT_THAT(error("megatron:tp=2,dp=4,ep=4,pp=2"),
              AllOf(HasSubstr("ep=4 does not divide the 6 experts"),
                    HasSubstr("etp=2 does not divide the width 5"),
                    HasSubstr("pp=2 does not divide num_hidden_layers=3")));
  EXPECT_THAT(error("megatron:tp=2,ep=2"),
              HasSubstr("ep=2 and etp=2 do not divide the tp*cp*dp=2 ranks"));
  EXPECT_THAT(error("vllm:tp=2,ep=4"),
              HasSubstr("ep=4 is not the tp*dp=2 ranks of a stage"));
  EXPECT_THAT(error("vllm:tp=2"),
              HasSubstr("tp*dp=2 does not divide the width 5 of an expert; "
                        "give ep=2"));
  // The unused width of an MLP that no layer has is no obstacle.
  model = Qwen3Moe(6, 4, 2);
  model.I = 7;
  EXPECT_TRUE(TryLayout(model, "vllm:tp=2", 0).ok());
  EXPECT_TRUE(TryLayout(model, "megatron:tp=2", 0).ok());
  model.more += ", \"mlp_only_layers\": [0]";
  EXPECT_THAT(error("vllm:tp=2"), HasSubstr("intermediate_size=7"));
  EXPECT_THAT(error("megatron:tp=2"), HasSubstr("intermediate_size=7"));
  model.more =
      "\"num_experts\": 6, \"moe_intermediate_size\": 4, "
      "\"mlp_only_layers\": 3";
  EXPECT_THAT(error("hf"),
              HasSubstr("mlp_only_layers=3 is not a list of integers"));
}

}  // namespace
}  // namespace weft::recipe::testing
