// The worked examples W1-W10, W14-W16, W24 of docs: every expectation is typed
// from the text. M, F: rank of a Megatron or FSDP source x its local rows.

#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "weft/recipe/testing/model.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

constexpr char kMegatronQkv[] =
    "decoder.layers.0.self_attention.linear_qkv.weight";
constexpr char kMegatronQkvBias[] =
    "decoder.layers.0.self_attention.linear_qkv.bias";
constexpr char kMegatronFc1[] = "decoder.layers.0.mlp.linear_fc1.weight";
constexpr char kVllmQkv[] = "model.layers.0.self_attn.qkv_proj.weight";
constexpr char kVllmQkvBias[] = "model.layers.0.self_attn.qkv_proj.bias";
constexpr char kVllmGateUp[] = "model.layers.0.mlp.gate_up_proj.weight";
constexpr char kQ[] = "model.layers.0.self_attn.q_proj.weight";
constexpr char kK[] = "model.layers.0.self_attn.k_proj.weight";
constexpr char kV[] = "model.layers.0.self_attn.v_proj.weight";

using Rows = std::vector<std::string>;

const std::map<std::string, std::string>& Labels() {
  static const auto* const kLabels =
      new std::map<std::string, std::string>{{"q_proj", "q"},
                                             {"k_proj", "k"},
                                             {"v_proj", "v"},
                                             {"gate_proj", "g"},
                                             {"up_proj", "u"}};
  return *kLabels;
}

// Rows of one stored tensor on every rank, in logical names.
Rows RowsOnAllRanks(const Model& model, const std::string& spec,
                    const std::string& name) {
  Rows rows;
  for (const RankLayout& layout : AllRanks(model, spec)) {
    rows.push_back(RowsOf(layout, name, Labels()));
  }
  return rows;
}

// Rows of one target tensor on every rank, as rows of the source ranks.
Rows Compose(const Model& model, const std::string& source_spec,
             const std::vector<std::string>& source_names,
             const std::string& target_spec, const std::string& target_name,
             const std::string& label) {
  const Whereabouts where = Locate(AllRanks(model, source_spec), source_names);
  Rows rows;
  for (const RankLayout& layout : AllRanks(model, target_spec)) {
    rows.push_back(ComposeRows(layout, target_name, where, label));
  }
  return rows;
}

TEST(GoldenTest, W1QkvUnInterleave) {
  const Model model{.Hq = 4, .G = 2, .D = 2};
  EXPECT_EQ(RowsOnAllRanks(model, "megatron:tp=1", kMegatronQkv),
            (Rows{"q[0..3] k[0..1] v[0..1] q[4..7] k[2..3] v[2..3]"}));
  // HF to merged: q 0..7 -> 0,1,2,3,8,9,10,11; k -> 4,5,12,13; v -> 6,7,14,15.
  EXPECT_EQ(Compose(model, "megatron:tp=1", {kMegatronQkv}, "hf", kQ, "M"),
            (Rows{"M0[0..3] M0[8..11]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=1", {kMegatronQkv}, "hf", kK, "M"),
            (Rows{"M0[4..5] M0[12..13]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=1", {kMegatronQkv}, "hf", kV, "M"),
            (Rows{"M0[6..7] M0[14..15]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronQkv}, "hf", kQ, "M"),
            (Rows{"M0[0..3] M1[0..3]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronQkv}, "hf", kK, "M"),
            (Rows{"M0[4..5] M1[4..5]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronQkv}, "hf", kV, "M"),
            (Rows{"M0[6..7] M1[6..7]"}));
  EXPECT_EQ(
      Compose(model, "megatron:tp=2", {kMegatronQkv}, "vllm", kVllmQkv, "M"),
      (Rows{"M0[0..3] M1[0..3] M0[4..5] M1[4..5] M0[6..7] M1[6..7]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronQkv}, "vllm:tp=2",
                    kVllmQkv, "M"),
            (Rows{"M0[0..7]", "M1[0..7]"}));
}

TEST(GoldenTest, W2KeyValueReplicas) {
  const Model model{.Hq = 4, .G = 2, .D = 2};
  EXPECT_EQ(
      Compose(model, "megatron:tp=2", {kMegatronQkv}, "vllm:tp=4", kVllmQkv,
              "M"),
      (Rows{"M0[0..1] M0[4..7]", "M0[2..7]", "M1[0..1] M1[4..7]", "M1[2..7]"}));
  EXPECT_EQ(RowsOnAllRanks(model, "vllm:tp=4", kVllmQkv),
            (Rows{"q[0..1] k[0..1] v[0..1]", "q[2..3] k[0..1] v[0..1]",
                  "q[4..5] k[2..3] v[2..3]", "q[6..7] k[2..3] v[2..3]"}));
}

TEST(GoldenTest, W3CutThroughAGroup) {
  const Model model{.Hq = 4, .G = 2, .D = 2};
  EXPECT_EQ(RowsOnAllRanks(model, "megatron:tp=4", kMegatronQkv),
            (Rows{"q[0..3]", "k[0..1] v[0..1]", "q[4..7]", "k[2..3] v[2..3]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=4", {kMegatronQkv}, "vllm:tp=2",
                    kVllmQkv, "M"),
            (Rows{"M0[0..3] M1[0..3]", "M2[0..3] M3[0..3]"}));
}

TEST(GoldenTest, W3RealHeadCounts) {
  const Model model{
      .architecture = "Qwen3ForCausalLM", .H = 1, .Hq = 32, .G = 4, .D = 128};
  const Rows rows = RowsOnAllRanks(model, "megatron:tp=8", kMegatronQkv);
  ASSERT_EQ(rows.size(), 8u);
  EXPECT_EQ(rows[0], "q[0..639]");
  EXPECT_EQ(rows[1], "q[640..1023] k[0..127] v[0..127]");
  EXPECT_EQ(rows[2], "q[1024..1663]");
  EXPECT_EQ(rows[3], "q[1664..2047] k[128..255] v[128..255]");
}

TEST(GoldenTest, W4QkvBias) {
  const Model model{
      .architecture = "Qwen2ForCausalLM", .Hq = 4, .G = 2, .D = 2};
  const Whereabouts where =
      Locate(AllRanks(model, "megatron:tp=2"), {kMegatronQkvBias});
  EXPECT_EQ(ComposeBytes(LayoutOf(model, "vllm", 0), kVllmQkvBias, where, "M"),
            "(0,M0 0,8) (8,M1 0,8) (16,M0 8,4) (20,M1 8,4) (24,M0 12,4) "
            "(28,M1 12,4)");
}

TEST(GoldenTest, W6KeyValueReplicas) {
  const Model model{.Hq = 8, .G = 2, .D = 2};
  EXPECT_EQ(RowsOnAllRanks(model, "vllm:tp=4", kVllmQkv),
            (Rows{"q[0..3] k[0..1] v[0..1]", "q[4..7] k[0..1] v[0..1]",
                  "q[8..11] k[2..3] v[2..3]", "q[12..15] k[2..3] v[2..3]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronQkv}, "vllm:tp=4",
                    kVllmQkv, "M"),
            (Rows{"M0[0..3] M0[8..11]", "M0[4..11]", "M1[0..3] M1[8..11]",
                  "M1[4..11]"}));
  EXPECT_EQ(RowsOnAllRanks(model, "vllm:tp=8", kVllmQkv),
            (Rows{"q[0..1] k[0..1] v[0..1]", "q[2..3] k[0..1] v[0..1]",
                  "q[4..5] k[0..1] v[0..1]", "q[6..7] k[0..1] v[0..1]",
                  "q[8..9] k[2..3] v[2..3]", "q[10..11] k[2..3] v[2..3]",
                  "q[12..13] k[2..3] v[2..3]", "q[14..15] k[2..3] v[2..3]"}));
}

TEST(GoldenTest, W7GateUp) {
  const Model model{.I = 8};
  EXPECT_EQ(RowsOnAllRanks(model, "megatron:tp=2", kMegatronFc1),
            (Rows{"g[0..3] u[0..3]", "g[4..7] u[4..7]"}));
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronFc1}, "vllm:tp=4",
                    kVllmGateUp, "M"),
            (Rows{"M0[0..1] M0[4..5]", "M0[2..3] M0[6..7]", "M1[0..1] M1[4..5]",
                  "M1[2..3] M1[6..7]"}));
  EXPECT_EQ(
      Compose(model, "megatron:tp=2", {kMegatronFc1}, "vllm", kVllmGateUp, "M"),
      (Rows{"M0[0..3] M1[0..3] M0[4..7] M1[4..7]"}));
}

TEST(GoldenTest, W8GateUpFromMoreToFewer) {
  const Model model{.I = 8};
  EXPECT_EQ(Compose(model, "megatron:tp=4", {kMegatronFc1}, "vllm:tp=2",
                    kVllmGateUp, "M"),
            (Rows{"M0[0..1] M1[0..1] M0[2..3] M1[2..3]",
                  "M2[0..1] M3[0..1] M2[2..3] M3[2..3]"}));
}

TEST(GoldenTest, W9GateUpNotNested) {
  const Model model{.Hq = 6, .G = 6, .I = 12, .V = 192};
  EXPECT_EQ(Compose(model, "megatron:tp=2", {kMegatronFc1}, "vllm:tp=3",
                    kVllmGateUp, "M"),
            (Rows{"M0[0..3] M0[6..9]", "M0[4..5] M1[0..1] M0[10..11] M1[6..7]",
                  "M1[2..5] M1[8..11]"}));
}

TEST(GoldenTest, W10RowParallel) {
  const Model model{.H = 2, .Hq = 4, .G = 2, .D = 2};
  const std::string source =
      "decoder.layers.0.self_attention.linear_proj.weight";
  const std::string target = "model.layers.0.self_attn.o_proj.weight";
  const Whereabouts where = Locate(AllRanks(model, "megatron:tp=2"), {source});
  EXPECT_EQ(ComposeBytes(LayoutOf(model, "vllm:tp=4", 1), target, where, "M"),
            "(0,M0 4,4) (4,M0 12,4)");
  EXPECT_EQ(ComposeBytes(LayoutOf(model, "vllm", 0), target, where, "M"),
            "(0,M0 0,8) (8,M1 0,8) (16,M0 8,8) (24,M1 8,8)");
}

TEST(GoldenTest, W14UnevenShards) {
  const Model model{.Hq = 2, .G = 2, .D = 5};
  EXPECT_EQ(Compose(model, "fsdp:shard=4", {kQ, kK, kV}, "vllm:tp=2", kVllmQkv,
                    "F")[0]
                .substr(0, 17),
            "F0[0..2] F1[0..1]");
  // Row 5 begins rank 1: the last row of shard 1, then shards 2 and 3.
  EXPECT_EQ(Compose(model, "fsdp:shard=4", {kQ}, "hf", kQ, "F"),
            (Rows{"F0[0..2] F1[0..2] F2[0..2] F3[0]"}));
  const Rows rows =
      Compose(model, "fsdp:shard=4", {kQ}, "vllm:tp=2", kVllmQkv, "F");
  EXPECT_EQ(rows[1].substr(0, 20), "F1[2] F2[0..2] F3[0]");
}

TEST(GoldenTest, W14EmptyShardsStayInTheList) {
  // 9 rows over 8 ranks: 2 2 2 2 1 and three empty shards.
  const Model model{.H = 9, .I = 3, .V = 10, .tied = true};
  const std::vector<int64_t> want{2, 2, 2, 2, 1, 0, 0, 0};
  const std::vector<RankLayout> ranks = AllRanks(model, "fsdp:shard=8");
  ASSERT_EQ(ranks.size(), 8u);
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    EXPECT_EQ(ranks[rank].stored.size(), 11u);
    const layout::StoredTensor* const norm =
        FindStored(ranks[rank], "model.norm.weight");
    ASSERT_NE(norm, nullptr);
    EXPECT_EQ(norm->shape, (tensor::Shape{want[rank]}));
    const layout::StoredTensor* const down =
        FindStored(ranks[rank], "model.layers.0.mlp.down_proj.weight");
    ASSERT_NE(down, nullptr);
    EXPECT_EQ(down->shape, (tensor::Shape{want[rank], 3}));
    EXPECT_EQ(down->fragments.empty(), want[rank] == 0);
  }
  // Rank 7 holds one row of none: 10 rows of the embedding end on rank 4.
  EXPECT_TRUE(
      FindStored(ranks[7], "model.embed_tokens.weight")->fragments.empty());
}

TEST(GoldenTest, W15FsdpToRowParallel) {
  const Model model{.H = 10, .I = 8};
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const Whereabouts where = Locate(AllRanks(model, "fsdp:shard=4"), {name});
  EXPECT_EQ(ComposeBytes(LayoutOf(model, "vllm:tp=2", 1), name, where, "F"),
            "(0,F0 8,8) (8,F0 24,8) (16,F0 40,8) "
            "(24,F1 8,8) (32,F1 24,8) (40,F1 40,8) "
            "(48,F2 8,8) (56,F2 24,8) (64,F2 40,8) "
            "(72,F3 8,8)");
}

TEST(GoldenTest, W16HybridShards) {
  const Model model{.Hq = 3, .G = 1, .D = 2};
  // Rank order: replicate slowest.
  EXPECT_EQ(RowsOnAllRanks(model, "fsdp:shard=2,replicate=2", kQ),
            (Rows{"q[0..2]", "q[3..5]", "q[0..2]", "q[3..5]"}));
}

TEST(GoldenTest, W16TensorParallelFirst) {
  const auto rows_of = [](int64_t num_rows, const std::string& spec) {
    const Model model{.Hq = num_rows, .G = 1, .D = 1};
    return RowsOnAllRanks(model, spec, kQ);
  };
  EXPECT_EQ(rows_of(8, "fsdp:shard=2,tp=2"),
            (Rows{"q[0..1]", "q[4..5]", "q[2..3]", "q[6..7]"}));
  EXPECT_EQ(rows_of(12, "fsdp:shard=3,tp=2"),
            (Rows{"q[0..1]", "q[6..7]", "q[2..3]", "q[8..9]", "q[4..5]",
                  "q[10..11]"}));
  EXPECT_EQ(rows_of(10, "fsdp:shard=4,tp=2"),
            (Rows{"q[0..1]", "q[5..6]", "q[2..3]", "q[7..8]", "q[4]", "q[9]",
                  "", ""}));
  // Placement metadata says the opposite of the last two.
  EXPECT_EQ(
      rows_of(9, "fsdp:shard=4,tp=2"),
      (Rows{"q[0..1]", "q[5]", "q[2..3]", "q[6]", "q[4]", "q[7]", "", "q[8]"}));
}

TEST(GoldenTest, UnevenTensorParallelVocabulary) {
  // 1003 rows: 502 and 501, then 251/251 and 251/250.
  const Model model{.H = 1, .V = 1003};
  std::vector<int64_t> rows;
  for (const RankLayout& layout : AllRanks(model, "fsdp:shard=2,tp=2")) {
    rows.push_back(FindStored(layout, "lm_head.weight")->shape[0]);
  }
  EXPECT_EQ(rows, (std::vector<int64_t>{251, 251, 251, 250}));
}

TEST(GoldenTest, W24Vocabulary) {
  const std::string vllm = "lm_head.weight";
  const std::string megatron = "output_layer.weight";
  const std::map<std::string, std::string> labels{{"lm_head", "v"}};
  const Model model{.H = 1, .Hq = 4, .G = 4, .V = 130};
  Rows rows;
  for (const RankLayout& layout : AllRanks(model, "vllm:tp=4")) {
    rows.push_back(RowsOf(layout, vllm, labels));
  }
  EXPECT_EQ(rows, (Rows{"v[0..47]", "v[48..95]", "v[96..129] 0*14", "0*48"}));
  rows.clear();
  for (const RankLayout& layout :
       AllRanks(model, "megatron:tp=2,vocab_divisor=8")) {
    rows.push_back(RowsOf(layout, megatron, labels));
  }
  EXPECT_EQ(rows, (Rows{"v[0..71]", "v[72..129] 0*14"}));
  const Rows composed = Compose(model, "megatron:tp=2,vocab_divisor=8",
                                {megatron}, "vllm:tp=4", vllm, "M");
  EXPECT_EQ(composed[1], "M0[48..71] M1[0..23]");
  EXPECT_EQ(composed[2], "M1[24..57] 0*14");
}

TEST(GoldenTest, W24RealVocabulary) {
  const Model model{.H = 1, .Hq = 8, .G = 8, .V = 151936, .tied = true};
  const std::string source = "embedding.word_embeddings.weight";
  const std::vector<RankLayout> ranks =
      AllRanks(model, "megatron:tp=8,vocab_divisor=128");
  for (const RankLayout& layout : ranks) {
    EXPECT_EQ(FindStored(layout, source)->shape, (tensor::Shape{19072, 1}));
  }
  const RankLayout target = LayoutOf(model, "vllm:tp=8", 1);
  EXPECT_EQ(FindStored(target, "model.embed_tokens.weight")->shape,
            (tensor::Shape{18992, 1}));
  EXPECT_EQ(ComposeRows(target, "model.embed_tokens.weight",
                        Locate(ranks, {source}), "M"),
            "M0[18992..19071] M1[0..18911]");
}

TEST(GoldenTest, W24VocabularyBelowThePadding) {
  // 1003 rows are 1024 even with one rank.
  const Model model{.H = 1, .V = 1003};
  EXPECT_EQ(RowsOf(LayoutOf(model, "vllm", 0), "model.embed_tokens.weight",
                   {{"embed", "v"}}),
            "v[0..1002] 0*21");
}

// Per-rank row counts of real models in vLLM: qkv rows, o_proj columns,
// gate_up rows.
TEST(GoldenTest, RealShardShapes) {
  const Model llama8{
      .H = 4096, .Hq = 32, .G = 8, .D = 128, .I = 14336, .V = 128256};
  const Model qwen25{.architecture = "Qwen2ForCausalLM",
                     .H = 1536,
                     .Hq = 12,
                     .G = 2,
                     .D = 128,
                     .I = 8960,
                     .V = 151936,
                     .tied = true};
  const auto shapes = [](const Model& model, const std::string& spec) {
    const RankLayout layout = LayoutOf(model, spec, 0);
    return std::vector<int64_t>{
        FindStored(layout, kVllmQkv)->shape[0],
        FindStored(layout, "model.layers.0.self_attn.o_proj.weight")->shape[1],
        FindStored(layout, kVllmGateUp)->shape[0]};
  };
  using Counts = std::vector<int64_t>;
  EXPECT_EQ(shapes(llama8, "vllm"), (Counts{6144, 4096, 28672}));
  EXPECT_EQ(shapes(llama8, "vllm:tp=8"), (Counts{768, 512, 3584}));
  EXPECT_EQ(shapes(qwen25, "vllm:tp=2"), (Counts{1024, 768, 8960}));
  EXPECT_EQ(shapes(qwen25, "vllm:tp=4"), (Counts{640, 384, 4480}));
  EXPECT_FALSE(TryLayout(qwen25, "vllm:tp=8", 0).ok());
}

// The q rows of all groups are one nested map, not one map a group.
TEST(GoldenTest, QueryGroupsAreOneFragment) {
  const Model model{.H = 4096, .Hq = 32, .G = 8, .D = 128};
  const RankLayout layout = LayoutOf(model, "megatron", 0);
  EXPECT_EQ(FindStored(layout, kMegatronQkv)->fragments.size(), 3u);
  const RankLayout half = LayoutOf(model, "megatron:tp=2", 1);
  EXPECT_EQ(FindStored(half, kMegatronQkv)->fragments.size(), 3u);
}

}  // namespace
}  // namespace weft::recipe::testing
