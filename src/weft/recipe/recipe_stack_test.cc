// Stacks, symbols of groups, texts, lists, what memory holds, and how an
// included file's symbols are taken: recipes as users write them.

#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/data_recipe.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kStacks = R"(recipe: 1
family: stacks
architectures: [StackLM]
config:
  L: {key: num_hidden_layers}
  E: {key: num_experts}
  skipped: {list: skipped_layers}
  part: {text: w}
layers: L
checkpoint:
  tensors:
    - for: {layer: 0 .. L}
      let:
        base: layer * 10
        stacked: not layer in skipped
      prefix: "{base}."
      tensors:
        - {name: plain, shape: [3]}
        - when: stacked
          tensors:
            - for: {e: 0 .. E}
              prefix: "{e}."
              tensors:
                - {name: "{part}", shape: [2, 3]}
                - {name: bias, shape: [2]}
  memory:
    - for: {layer: 0 .. L}
      when: L > 0
      prefix: "{layer * 10}."
      of_prefix: "{layer * 10}."
      tensors:
        - when: not layer in skipped
          name: biases
          stack: {e: 0 .. E}
          of: "{e}.bias"
vllm:
  tensors:
    - for: {layer: layer_begin .. layer_end}
      let: {stacked: not layer in skipped}
      prefix: "{layer}."
      of_prefix: "{layer * 10}."
      tensors:
        - when: stacked
          name: stack
          stack: {e: 1 .. E}
          concat:
            - {of: "{e}.{part}", rows: 1 .. 2}
            - {zeros: 1}
            - {of: "{e}.{part}", rows: 0 .. 1}
          cut: even(E - 1, tp, tp_rank)
        - when: stacked
          name: columns
          stack: {e: 0 .. E}
          of: "{e}.{part}"
          columns: even(3, 3, tp_rank)
          cut: tp_rank .. tp_rank
)";

std::string Edited(std::string_view from, std::string_view to) {
  const std::string text = absl::StrReplaceAll(
      std::string(kStacks), {{std::string(from), std::string(to)}});
  EXPECT_NE(text, kStacks) << from;
  return text;
}

ModelConfig Config(int64_t L, int64_t E, std::vector<int64_t> skipped) {
  ModelConfig config;
  config.architecture = "StackLM";
  config.numbers = {{"num_hidden_layers", L}, {"num_experts", E}};
  config.lists = {{"skipped_layers", std::move(skipped)}};
  return config;
}

absl::StatusOr<RankLayout> TryStacks(std::string_view yaml,
                                     const ModelConfig& config,
                                     const std::string& spec, int64_t rank) {
  const auto recipe = ParseRecipe(yaml, "stacks.yaml");
  if (!recipe.ok()) return recipe.status();
  const auto logical = (*recipe)->LogicalTensors(config);
  if (!logical.ok()) return logical.status();
  return (*recipe)->Layout(config, ParseLayoutSpec(spec).value(), rank,
                           *logical);
}

std::string Error(std::string_view yaml, const std::string& spec) {
  return std::string(
      TryStacks(yaml, Config(1, 3, {}), spec, 0).status().message());
}

TEST(RecipeStackTest, EveryElementOfAStack) {
  const RankLayout layout =
      TryStacks(kStacks, Config(3, 5, {1}), "vllm:tp=2", 1).value();
  ASSERT_EQ(layout.stored.size(), 4u);  // layers 0 and 2
  const layout::StoredTensor& stack = layout.stored[2];
  EXPECT_EQ(stack.name, "2.stack");
  EXPECT_EQ(stack.shape, (tensor::Shape{2, 3, 3}));
  EXPECT_TRUE(layout::CheckTiling(stack, layout.tensors, false).ok());
  // Entries 1 .. 5 over two ranks: this one has e = 3 and 4.
  for (int64_t entry = 0; entry < 2; ++entry) {
    const std::string name = absl::StrCat("20.", 3 + entry, ".w");
    for (const layout::Fragment& fragment : stack.fragments) {
      if (layout.tensors[fragment.tensor].name != name) continue;
      const int64_t row = fragment.map.box().range(0).begin;
      const std::vector<int64_t> at{row, 2};
      EXPECT_EQ(fragment.map.OffsetOf(at), entry * 9 + (row == 1 ? 0 : 6) + 2);
    }
    EXPECT_EQ(stack.zero_fill[entry].ToString(),
              absl::StrCat("[", entry, ",", entry + 1, ")x[1,2)x[0,3)"));
  }
  EXPECT_EQ(stack.fragments.size(), 4u);
  EXPECT_EQ(layout.stored[3].shape, (tensor::Shape{0, 2, 1}));
  EXPECT_TRUE(layout.stored[3].fragments.empty());
}

TEST(RecipeStackTest, MemoryTakesThePlaceOfTheFile) {
  const ModelConfig config = Config(2, 3, {1});
  const auto names = [&](const std::string& spec, int64_t rank) {
    std::vector<std::string> result;
    const RankLayout layout = TryStacks(kStacks, config, spec, rank).value();
    for (const layout::StoredTensor& stored : layout.stored) {
      result.push_back(
          absl::StrCat(stored.name, tensor::ShapeToString(stored.shape)));
    }
    return result;
  };
  EXPECT_THAT(names("fsdp:shard=2", 1),
              ElementsAre("0.plain[1]", "0.0.w[1,3]", "0.1.w[1,3]",
                          "0.2.w[1,3]", "10.plain[1]", "0.biases[1,2]"));
  EXPECT_THAT(
      names("fsdp:shard=2,names=hf", 1),
      ElementsAre("0.plain[1]", "0.0.w[1,3]", "0.0.bias[1]", "0.1.w[1,3]",
                  "0.1.bias[1]", "0.2.w[1,3]", "0.2.bias[1]", "10.plain[1]"));
  EXPECT_EQ(names("hf", 0).size(), 8u);
  const RankLayout layout =
      TryStacks(kStacks, config, "fsdp:shard=2", 1).value();
  EXPECT_EQ(OriginsOf(layout, layout.stored.back())[1],
            (Origin{"0.2.bias", 1, -1}));
  // What tensor parallelism cuts in the file must say how it does in memory.
  const std::string is_cut =
      Edited("bias, shape: [2]}", "bias, shape: [2], tp: rows}");
  EXPECT_EQ(TryStacks(is_cut, config, "fsdp:tp=2", 0).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(TryStacks(kStacks, config, "fsdp:tp=2", 0).ok());
  // Without a layer that memory fuses, nothing stands against it.
  EXPECT_TRUE(TryStacks(kStacks, Config(2, 3, {0, 1}), "fsdp:tp=2", 0).ok());
}

TEST(RecipeStackTest, Faults) {
  EXPECT_THAT(Error(Edited("even(E - 1, tp, tp_rank)", "0 .. E"), "vllm"),
              HasSubstr("cut [0,3) exceeds the 2 entries of \"0.stack\""));
  EXPECT_THAT(Error(Edited("{e: 1 .. E}", "{e: 1 .. 1}"), "vllm"),
              HasSubstr("stack \"0.stack\" has no entry"));
  EXPECT_THAT(
      Error(Edited("cut: even(E - 1, tp, tp_rank)", "cut: 0 .. e"), "vllm"),
      HasSubstr("cut: unknown symbol \"e\""));
  EXPECT_THAT(Error(Edited("rows: 0 .. 1", "rows: 0 .. e"), "vllm"),
              HasSubstr("an entry of 4 rows cannot follow one of 3 in "
                        "\"0.stack\""));
  EXPECT_THAT(Error(Edited("of: \"{e}.bias\"",
                           "of: \"{e}.bias\"\n          "
                           "cut: 0 .. 1"),
                    "fsdp"),
              HasSubstr("a tensor of \"memory\" is whole"));
  EXPECT_THAT(Error(Edited("          stack: {e: 0 .. E}\n          of: "
                           "\"{e}.{part}\"\n          columns",
                           "          of: \"0.{part}\"\n          columns"),
                    "vllm"),
              HasSubstr("cut: unknown key"));
  EXPECT_THAT(
      Error(Edited("prefix: \"{base}.\"", "prefix: \"{part + 1}.\""), "hf"),
      HasSubstr("\"part\" is a text; it stands alone in braces"));
  EXPECT_THAT(Error(Edited("part: {text: w}", "E: {text: w}"), "hf"),
              HasSubstr("given twice"));
  EXPECT_THAT(
      Error(Edited("part: {text: w}", "part: {text: w, default: 1}"), "hf"),
      HasSubstr("default: unknown key"));
  ModelConfig config = Config(1, 1, {});
  config.lists.clear();
  EXPECT_TRUE(TryStacks(kStacks, config, "hf", 0).ok());
  config.numbers["skipped_layers"] = 1;
  EXPECT_THAT(
      std::string(TryStacks(kStacks, config, "hf", 0).status().message()),
      HasSubstr("skipped_layers=1 is not a list of integers"));
}

TEST(RecipeStackTest, AFieldWithSeveralNames) {
  const std::string yaml =
      Edited("{key: num_experts}", "{key: [experts, num_experts, count]}");
  ModelConfig config = Config(1, 3, {});
  const auto stored = [&] {
    return TryStacks(yaml, config, "fsdp", 0).value().stored.back().shape[0];
  };
  EXPECT_EQ(stored(), 3);
  config.numbers["count"] = 4;
  EXPECT_EQ(stored(), 3);
  config.numbers.erase("num_experts");
  EXPECT_EQ(stored(), 4);
  config.numbers.erase("count");
  EXPECT_THAT(
      std::string(TryStacks(yaml, config, "fsdp", 0).status().message()),
      HasSubstr("lacks the field experts"));
  EXPECT_THAT(Error(Edited("{key: num_experts}", "{key: []}"), "hf"),
              HasSubstr("key: the list is empty"));
}

TEST(RecipeIncludeTest, OwnSymbolsReplaceThoseOfTheIncludedFile) {
  const auto include = [](const std::string&) -> absl::StatusOr<std::string> {
    return std::string(R"(
config:
  H: {key: hidden_size}
  width: {value: 2 * H}
  half: {value: width / 2}
checkpoint:
  tensors:
    - {name: w, shape: [width, half]}
)");
  };
  const auto shape = [&](std::string_view config) {
    const auto recipe = ParseRecipeWithIncludes(
        absl::StrCat("recipe: 1\nfamily: own\narchitectures: [Own]\n"
                     "include: other.yaml\nlayers: 0\n",
                     std::string(config)),
        "own.yaml", include);
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    ModelConfig model;
    model.numbers = {{"hidden_size", 5}};
    return (*recipe)->LogicalTensors(model).value().at(0).shape;
  };
  EXPECT_EQ(shape(""), (tensor::Shape{10, 5}));
  EXPECT_EQ(shape("config:\n  width: {value: 6}\n"), (tensor::Shape{6, 3}));
}

}  // namespace
}  // namespace weft::recipe::testing
