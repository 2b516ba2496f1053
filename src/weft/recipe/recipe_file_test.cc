// Recipe files as users write them: errors name file, line and key; files and
// directories are loaded beside the embedded ones.

#include <rapidcheck.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/embedded_recipes.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A whole recipe; the line numbers below count from its first line.
constexpr std::string_view kTiny = R"(recipe: 1
family: tiny
architectures: [TinyLM]
config:
  H: {key: hidden_size}
  L: {key: num_hidden_layers, default: 1}
  big: {flag: is_big, default: 0}
layers: L
checkpoint:
  tensors:
    - {name: table, shape: [6, H], tp: rows}
    - for: {layer: 0 .. L}
      prefix: "layers.{layer}."
      tensors:
        - {name: w, shape: [4, H]}
vllm:
  let:
    share: 6 / tp
  tensors:
    - name: table
      concat: [of: table, zeros: 2]
      cut: even(8, tp, tp_rank)
    - for: {layer: layer_begin .. layer_end}
      prefix: "layers.{layer}."
      of_prefix: "layers.{layer}."
      tensors:
        - {name: half, of: w, rows: 2 .. 4, columns: 1 .. H}
)";

// kTiny with one text replaced.
std::string Edited(std::string_view from, std::string_view to) {
  const std::string text = absl::StrReplaceAll(
      std::string(kTiny), {{std::string(from), std::string(to)}});
  EXPECT_NE(text, kTiny) << from;
  return text;
}

std::string Error(std::string_view yaml) {
  const auto recipe = ParseRecipe(yaml, "tiny.yaml");
  EXPECT_EQ(recipe.status().code(), absl::StatusCode::kInvalidArgument) << yaml;
  return std::string(recipe.status().message());
}

ModelConfig Config(int64_t H, int64_t L) {
  ModelConfig config;
  config.architecture = "TinyLM";
  config.numbers = {{"hidden_size", H}, {"num_hidden_layers", L}};
  return config;
}

absl::StatusOr<RankLayout> TryTiny(std::string_view yaml, int64_t H,
                                   const std::string& spec) {
  const auto recipe = ParseRecipe(yaml, "tiny.yaml");
  if (!recipe.ok()) return recipe.status();
  const ModelConfig config = Config(H, 1);
  const auto logical = (*recipe)->LogicalTensors(config);
  if (!logical.ok()) return logical.status();
  return (*recipe)->Layout(config, ParseLayoutSpec(spec).value(), 0, *logical);
}

TEST(RecipeFileTest, ARecipeOfAUser) {
  const auto recipe = ParseRecipe(kTiny, "tiny.yaml").value();
  EXPECT_EQ(recipe->family(), "tiny");
  EXPECT_THAT(recipe->architectures(), ElementsAre("TinyLM"));
  const RankLayout layout = TryTiny(kTiny, 3, "vllm:tp=2").value();
  ASSERT_EQ(layout.stored.size(), 2u);
  EXPECT_EQ(layout.stored[0].shape, (tensor::Shape{4, 3}));
  EXPECT_EQ(layout.stored[1].name, "layers.0.half");
  EXPECT_EQ(layout.stored[1].shape, (tensor::Shape{2, 2}));
  EXPECT_EQ(testing::OriginsOf(layout, layout.stored[1])[3],
            (testing::Origin{"layers.0.w", 3, 2}));
}

TEST(RecipeFileTest, BadKeysNameFileLineAndKey) {
  EXPECT_EQ(Error(Edited("family: tiny", "familie: tiny")),
            "tiny.yaml:2: familie: unknown key; known are recipe, family, "
            "architectures, include, config, require, layers, define, "
            "checkpoint, megatron, vllm, sglang");
  EXPECT_EQ(Error(Edited("tp: rows}", "tp: rows, cut: 3}")),
            "tiny.yaml:11: cut: unknown key; known are when, for, name, shape, "
            "tp, dtype, quant, shard");
  EXPECT_EQ(Error(Edited("family: tiny\n", "")),
            "tiny.yaml:1: key \"family\" is missing");
  EXPECT_EQ(Error(Edited("family: tiny", "family: tiny\nfamily: tiny")),
            "tiny.yaml:3: family: the key is given twice");
  EXPECT_EQ(Error(Edited("recipe: 1", "recipe: 2")),
            "tiny.yaml:1: recipe: version 2 of the recipe language is not "
            "supported, only 1");
  EXPECT_EQ(Error(Edited("tp: rows", "tp: heads")),
            "tiny.yaml:11: tp: \"heads\" is unknown; known are rows, columns, "
            "none");
  EXPECT_EQ(Error(Edited("[TinyLM]", "[]")),
            "tiny.yaml:3: architectures: the list is empty");
  EXPECT_EQ(Error(Edited("{flag: is_big, default: 0}", "{default: 0}")),
            "tiny.yaml:7: big: needs one of key, count, flag, value, text, "
            "list, present");
  EXPECT_EQ(Error(Edited("of: w, rows", "rows")),
            "tiny.yaml:27: tensors: a stored tensor needs \"of\" or "
            "\"concat\"");
}

TEST(RecipeFileTest, BadExpressionsNameFileLineAndKey) {
  EXPECT_EQ(
      Error(Edited("even(8, tp, tp_rank)", "even(8, tp, rank)")),
      "tiny.yaml:22: cut: unknown symbol \"rank\" (known are H, L, big, "
      "tp, tp_rank, pp, pp_rank, dp, dp_rank, ep, ep_rank, moe_tp, "
      "moe_tp_rank, layer_begin, layer_end, first_stage, last_stage, "
      "attn_tp, attn_tp_rank, is_vllm, is_sglang, fuse_shared, places_experts, "
      "balances_experts, eplb_layers, quantised, share) in \"even(8, tp, "
      "rank)\"");
  EXPECT_THAT(Error(Edited("[4, H]", "[4, H +]")),
              StartsWith("tiny.yaml:15: shape: expected a value at column 4"));
  // A loop variable ends with its loop; a symbol comes before its use.
  EXPECT_THAT(
      Error(Edited("- {name: table, shape", "- {name: \"t.{layer}\", shape")),
      StartsWith("tiny.yaml:11: name: unknown symbol \"layer\""));
  EXPECT_THAT(Error(Edited("H: {key: hidden_size}",
                           "H: {key: hidden_size, default: L}")),
              StartsWith("tiny.yaml:5: default: unknown symbol \"L\""));
  EXPECT_THAT(
      Error(Edited("layers.{layer}.\"\n      tensors:\n        - {name: "
                   "w",
                   "layers.{layer.\"\n      tensors:\n        - {name: "
                   "w")),
      StartsWith("tiny.yaml:13: prefix: braces do not match"));
  EXPECT_EQ(Error(Edited("share: 6 / tp", "tp: 6")),
            "tiny.yaml:18: tp: symbol \"tp\" is defined already");
  EXPECT_EQ(Error(Edited("H: {key: hidden_size}",
                         "tp: {value: 1}\n  H: {key: hidden_size}")),
            "tiny.yaml:18: vllm: symbol \"tp\" is defined already");
  EXPECT_EQ(Error(Edited("for: {layer: 0 .. L}", "for: {H: 0 .. L}")),
            "tiny.yaml:12: H: symbol \"H\" is defined already");
}

TEST(RecipeFileTest, BadYaml) {
  EXPECT_THAT(Error("recipe: [1"), StartsWith("tiny.yaml:"));
  EXPECT_THAT(Error("recipe: [1"), HasSubstr("not valid YAML"));
  EXPECT_THAT(Error(""), HasSubstr("expected a mapping"));
  EXPECT_THAT(Error("a: 1\n---\nb: 2"),
              HasSubstr("expected one YAML document and nothing after it"));
  EXPECT_THAT(Error("just text"), HasSubstr("expected a mapping"));
  EXPECT_THAT(Error("[1]: 2"), HasSubstr("a key is not a word"));
  EXPECT_THAT(Error(Edited("[6, H]", "6")),
              StartsWith("tiny.yaml:11: shape: expected a list"));
  EXPECT_THAT(Error(Edited("share: 6 / tp", "share: [6]")),
              StartsWith("tiny.yaml:18: share: expected a single value"));
}

// yaml-cpp's own loader of all documents allocated without end on these.
TEST(RecipeFileTest, AStrayClosingBracketEnds) {
  EXPECT_THAT(Error("recipe: 1\n]"), StartsWith("tiny.yaml:"));
  EXPECT_THAT(Error("]"), StartsWith("tiny.yaml:"));
  EXPECT_THAT(Error("}"), StartsWith("tiny.yaml:"));
  EXPECT_THAT(Error("a: b ]"), StartsWith("tiny.yaml:"));
  EXPECT_THAT(Error("[a]]"), StartsWith("tiny.yaml:"));
  EXPECT_THAT(Error(", a"), StartsWith("tiny.yaml:"));
}

TEST(RecipeFileTest, AnAliasToItselfEnds) {
  EXPECT_THAT(Error(Edited("  tensors:\n    - name: table\n",
                           "  tensors: &all\n    - tensors: *all\n"
                           "    - name: table\n")),
              ::testing::AnyOf(HasSubstr("nested too deep"),
                               HasSubstr("not valid YAML")));
}

TEST(RecipeFileTest, FaultsOfATableNameFileAndLine) {
  const auto error = [](std::string_view yaml, int64_t H,
                        const std::string& spec) {
    return std::string(TryTiny(yaml, H, spec).status().message());
  };
  EXPECT_EQ(error(Edited("2 .. 4", "2 .. 5"), 3, "vllm"),
            "tiny.yaml:27: tensors: rows [2,5) exceed shape [4,3] of "
            "\"layers.0.w\"");
  EXPECT_EQ(error(Edited("1 .. H", "1 .. H + 1"), 3, "vllm"),
            "tiny.yaml:27: tensors: columns [1,4) exceed shape [4,3] of "
            "\"layers.0.w\"");
  EXPECT_EQ(error(Edited("even(8, tp", "even(10, tp"), 3, "vllm"),
            "tiny.yaml:20: tensors: cut [0,10) exceeds the 8 rows of "
            "\"table\"");
  EXPECT_EQ(error(Edited("of: w,", "of: x,"), 3, "vllm"),
            "tiny.yaml:27: tensors: the checkpoint has no tensor "
            "\"layers.0.x\"");
  EXPECT_EQ(error(kTiny, 3, "vllm:tp=4"),
            "tiny.yaml:18: share: 6 / 4 leaves remainder 2 in \"6 / tp\"");
  EXPECT_EQ(error(Edited("zeros: 2", "zeros: 2 - H"), 3, "vllm"),
            "tiny.yaml:21: concat: -1 rows of zeros");
  EXPECT_EQ(error(Edited("[of: table, zeros: 2]",
                         "[of: table, {of: layers.0.w, columns: 0 .. 1}]"),
                  3, "vllm"),
            "tiny.yaml:21: concat: a part of shape [4,1] cannot follow one of "
            "shape [6,3] in \"table\"");
  EXPECT_EQ(error(Edited("[of: table, zeros: 2]", "[]"), 3, "vllm"),
            "tiny.yaml:20: tensors: \"table\" has no part");
  EXPECT_THAT(error(Edited("shape: [4, H]", "shape: [4 - H, H]"), 5, "hf"),
              StartsWith("tiny.yaml:15: tensors: shape of \"layers.0.w\": "));
}

TEST(RecipeFileTest, NamesAreUnique) {
  EXPECT_THAT(std::string(TryTiny(Edited("prefix: \"layers.{layer}.\"\n      "
                                         "tensors:\n        - {name: w,",
                                         "tensors:\n        - {name: table,"),
                                  3, "hf")
                              .status()
                              .message()),
              HasSubstr("tensor \"table\" is described twice"));
  EXPECT_THAT(
      std::string(TryTiny(Edited("      prefix: \"layers.{layer}.\"\n      "
                                 "of_prefix: \"layers.{layer}.\"\n      "
                                 "tensors:\n        - {name: half,",
                                 "      of_prefix: \"layers.{layer}.\"\n      "
                                 "tensors:\n        - {name: table,"),
                          3, "vllm")
                      .status()
                      .message()),
      HasSubstr("stored tensor \"table\" is described twice"));
}

TEST(RecipeFileTest, AMissingTableIsNamed) {
  const auto layout = TryTiny(kTiny, 3, "megatron");
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(std::string(layout.status().message()),
            "recipe tiny.yaml has no table for megatron");
}

TEST(RecipeFileTest, RowsStoredTwiceAreNotJoined) {
  const RankLayout layout =
      TryTiny(Edited("[of: table, zeros: 2]",
                     "[{of: table, rows: 0 .. 4}, {of: table, rows: 2 .. 6}]"),
              3, "vllm")
          .value();
  const std::vector<testing::Origin> origins =
      testing::OriginsOf(layout, layout.stored[0]);
  for (int64_t row = 0; row < 8; ++row) {
    EXPECT_EQ(origins[row * 3].row, row < 4 ? row : row - 2);
  }
}

TEST(RecipeFileTest, IncludesOfUnknownFiles) {
  EXPECT_EQ(Error(Edited("layers: L", "layers: L\ninclude: no/where.yaml")),
            "tiny.yaml:9: include: there is no recipe file \"no/where.yaml\"");
}

TEST(RecipeFileTest, DamagedFilesNeverCrash) {
  std::vector<std::string> texts{std::string(kTiny)};
  for (const EmbeddedRecipe& embedded : EmbeddedRecipes()) {
    texts.emplace_back(embedded.text);
  }
  ASSERT_TRUE(rc::check("damaged files", [&] {
    std::string text = *rc::gen::elementOf(texts);
    const int num_edits = *rc::gen::inRange(1, 6);
    for (int i = 0; i < num_edits && !text.empty(); ++i) {
      const auto at = *rc::gen::inRange<std::size_t>(0, text.size());
      switch (*rc::gen::inRange(0, 3)) {
        case 0:
          text.erase(at, *rc::gen::inRange<std::size_t>(1, 20));
          break;
        case 1:
          text[at] = *rc::gen::elementOf(std::string("{}[]:,-*&\"' \n0aL"));
          break;
        default:
          text.insert(at, *rc::gen::elementOf(std::vector<std::string>{
                              "{", "]", ": ", "- ", "\n", "&a ", "*a", "99999",
                              "for: ", "tensors: "}));
      }
    }
    const auto recipe = ParseRecipe(text, "damaged.yaml");
    if (!recipe.ok()) {
      RC_ASSERT(recipe.status().code() == absl::StatusCode::kInvalidArgument);
      return;
    }
    ModelConfig config = Config(3, 2);
    config.numbers.insert({{"num_attention_heads", 2},
                           {"head_dim", 2},
                           {"intermediate_size", 4},
                           {"vocab_size", 8}});
    const auto logical = (*recipe)->LogicalTensors(config);
    if (!logical.ok()) return;
    (void)(*recipe)->Layout(config, ParseLayoutSpec("vllm:tp=2").value(), 1,
                            *logical);
  }));
}

class RecipeBookTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "weft_recipes_XXXXXX")
            .string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, std::string_view text) {
    std::filesystem::create_directories((dir_ / name).parent_path());
    std::ofstream(dir_ / name) << text;
  }
  std::filesystem::path dir_;
};

TEST_F(RecipeBookTest, Embedded) {
  const RecipeBook book = RecipeBook::Load("").value();
  EXPECT_THAT(
      book.Architectures(),
      ElementsAre(
          "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Gemma2ForCausalLM",
          "Gemma3ForCausalLM", "Glm4MoeForCausalLM", "GlmMoeDsaForCausalLM",
          "GptOssForCausalLM", "KimiK2ForCausalLM", "LlamaForCausalLM",
          "MistralForCausalLM", "MixtralForCausalLM", "NemotronHForCausalLM",
          "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM",
          "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM"));
  EXPECT_EQ(book.Find("MistralForCausalLM").value()->family(), "llama");
  EXPECT_EQ(book.Find("Qwen3ForCausalLM").value()->family(), "qwen3");
  EXPECT_THAT(std::string(book.Find("GPT2").status().message()),
              AllOf(HasSubstr("architecture \"GPT2\" has no recipe; supported "
                              "are DeepseekV2ForCausalLM, "),
                    HasSubstr(", Qwen3MoeForCausalLM, Qwen3NextForCausalLM")));
}

TEST_F(RecipeBookTest, HeadsOfTheEmbeddedAreWhatTheFilesSay) {
  const RecipeBook book = RecipeBook::Load("").value();
  for (const EmbeddedRecipe& embedded : EmbeddedRecipes()) {
    if (embedded.name.find('/') != std::string_view::npos) continue;
    const auto parsed = ParseRecipe(embedded.text, embedded.name);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    for (const std::string& architecture : (*parsed)->architectures()) {
      EXPECT_EQ(book.Find(architecture).value()->family(), (*parsed)->family());
    }
  }
}

TEST_F(RecipeBookTest, AFileBesideTheEmbedded) {
  Write("tiny.yaml", kTiny);
  const RecipeBook book =
      RecipeBook::Load((dir_ / "tiny.yaml").string()).value();
  EXPECT_EQ(book.Find("TinyLM").value()->family(), "tiny");
  EXPECT_TRUE(book.Find("Qwen2ForCausalLM").ok());
}

TEST_F(RecipeBookTest, ADirectoryReplacesFamilies) {
  Write("a.yaml", kTiny);
  Write("b.yml", Edited("[TinyLM]", "[TinyLM, LlamaForCausalLM]"));
  Write("notes.txt", "not a recipe");
  Write("include/part.yaml", "not a recipe either");
  const RecipeBook book = RecipeBook::Load(dir_.string()).value();
  // b.yml comes later: it replaces family tiny, and wins Llama.
  EXPECT_EQ(book.Find("LlamaForCausalLM").value()->family(), "tiny");
  EXPECT_EQ(book.Find("MistralForCausalLM").value()->family(), "llama");
  EXPECT_EQ(book.Find("TinyLM").value()->architectures().size(), 2u);
}

TEST_F(RecipeBookTest, IncludesOfTheUserBeforeTheEmbedded) {
  constexpr std::string_view kIncludes = R"(recipe: 1
family: mine
architectures: [MineLM]
include: include/gqa_decoder.yaml
)";
  // The embedded file leaves the number of layers to this one.
  Write("mine.yaml", kIncludes);
  EXPECT_FALSE(RecipeBook::Load((dir_ / "mine.yaml").string()).ok());
  Write("include/gqa_decoder.yaml", R"(
config:
  H: {key: hidden_size}
layers: 0
checkpoint:
  tensors:
    - {name: w, shape: [H]}
)");
  const RecipeBook book =
      RecipeBook::Load((dir_ / "mine.yaml").string()).value();
  EXPECT_EQ(
      book.Find("MineLM").value()->LogicalTensors(Config(3, 1)).value().size(),
      1u);
}

TEST_F(RecipeBookTest, BadPathsAndFiles) {
  EXPECT_EQ(RecipeBook::Load((dir_ / "absent.yaml").string()).status().code(),
            absl::StatusCode::kNotFound);
  Write("bad.yaml", "recipe: 7");
  EXPECT_THAT(std::string(RecipeBook::Load(dir_.string()).status().message()),
              HasSubstr("bad.yaml:1: recipe: version 7"));
}

}  // namespace
}  // namespace weft::recipe
