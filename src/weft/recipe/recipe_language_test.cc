// What recipes can say beside boxes of rows and columns: entries of stacks,
// turned and dealt parts, pinned dtypes, presence, words, definitions, a table
// for two engines. Random parts are compared element by element with what the
// words mean.

#include <rapidcheck.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/recipe/data_recipe.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/testing/model.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A recipe of one checkpoint tensor "x" and the given vllm table.
std::string Yaml(const std::string& shape, const std::string& tensors,
                 const std::string& more = "") {
  return absl::StrCat(
      "recipe: 1\nfamily: f\narchitectures: [F]\nconfig:\n  L: {key: layers}\n",
      more.rfind("config", 0) == 0 ? more.substr(7) : "",
      "layers: L\ncheckpoint:\n  tensors:\n    - {name: x, shape: ", shape,
      "}\nvllm:\n  tensors:\n", tensors,
      more.rfind("config", 0) == 0 ? "" : more);
}

absl::StatusOr<RankLayout> Layout(const std::string& yaml,
                                  const std::string& spec = "vllm",
                                  int64_t rank = 0,
                                  const ModelConfig& given = {},
                                  std::vector<std::string> held = {}) {
  const auto recipe = ParseRecipe(yaml, "f.yaml");
  if (!recipe.ok()) return recipe.status();
  ModelConfig config = given;
  config.numbers.emplace("layers", 1);
  const auto logical = (*recipe)->LogicalTensorsOf(config, Named(held));
  if (!logical.ok()) return logical.status();
  return (*recipe)->Layout(config, ParseLayoutSpec(spec).value(), rank,
                           *logical);
}

std::string Error(const std::string& yaml, const std::string& spec = "vllm") {
  const auto layout = Layout(yaml, spec);
  EXPECT_FALSE(layout.ok()) << yaml;
  return std::string(layout.status().message());
}

// Logical coordinates of each element of a stored tensor, in memory order.
std::vector<std::vector<int64_t>> Coordinates(
    const layout::StoredTensor& stored) {
  int64_t size = 1;
  for (const int64_t extent : stored.shape) size *= extent;
  std::vector<std::vector<int64_t>> found(size);
  for (const layout::Fragment& fragment : stored.fragments) {
    Walk(fragment.map.box(), [&](const std::vector<int64_t>& x) {
      std::vector<int64_t>& at = found.at(fragment.map.OffsetOf(x));
      EXPECT_TRUE(at.empty()) << "written twice";
      at = x;
    });
  }
  return found;
}

TEST(RecipeLanguageTest, TurnedAndDealtPartsElementByElement) {
  EXPECT_TRUE(rc::check("parts", [] {
    const auto between = [](int64_t low, int64_t high) {
      return *rc::gen::inRange<int64_t>(low, high + 1);
    };
    const bool stacked = *rc::gen::arbitrary<bool>();
    const bool turned = *rc::gen::arbitrary<bool>();
    const int64_t ways = between(1, 3), unit = between(1, 3);
    const int64_t each = between(1, 3), first = between(0, 2);
    const int64_t rows = ways * unit * each, width = between(1, 3);
    const int64_t all_rows = first + rows + between(0, 1);
    const int64_t index = between(0, 2);
    const int64_t begin = between(0, rows), end = between(begin, rows);
    const std::string matrix = turned ? absl::StrCat(width, ", ", all_rows)
                                      : absl::StrCat(all_rows, ", ", width);
    const std::string yaml =
        Yaml(absl::StrCat("[", stacked ? "3, " : "", matrix, "]"),
             absl::StrCat("    - name: y\n      concat:\n        - {of: x",
                          stacked ? absl::StrCat(", index: ", index) : "",
                          turned ? ", transpose: yes" : "", ", rows: ", first,
                          " .. ", first + rows, ", deinterleave: ", ways,
                          ", unit: ", unit, "}\n      cut: ", begin, " .. ",
                          end, "\n"));
    ::rc::detail::log() << yaml << "\n";
    const auto layout = Layout(yaml);
    RC_ASSERT(layout.ok());
    const layout::StoredTensor& stored = layout->stored.at(0);
    RC_ASSERT(layout::CheckTiling(stored, layout->tensors, false).ok());
    RC_ASSERT(stored.shape == (tensor::Shape{end - begin, width}));
    if (begin == end) return;
    // Way by way, of each the units in order, of each the rows in order.
    std::vector<int64_t> order;
    for (int64_t way = 0; way < ways; ++way) {
      for (int64_t x = 0; x < each; ++x) {
        for (int64_t d = 0; d < unit; ++d) {
          order.push_back(first + (x * ways + way) * unit + d);
        }
      }
    }
    const auto found = Coordinates(stored);
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        std::vector<int64_t> want;
        if (stacked) want.push_back(index);
        want.push_back(turned ? j : order[i]);
        want.push_back(turned ? order[i] : j);
        RC_ASSERT(found[(i - begin) * width + j] == want);
      }
    }
  }));
}

TEST(RecipeLanguageTest, AWholeDealtPartIsOneFragment) {
  const auto layout = Layout(
      Yaml("[2, 3, 8]",
           "    - name: y\n      stack: {e: 0 .. 2}\n      of: x\n"
           "      index: e\n      transpose: yes\n      deinterleave: 2\n"));
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->stored[0].shape, (tensor::Shape{2, 8, 3}));
  ASSERT_EQ(layout->stored[0].fragments.size(), 1u);
  EXPECT_EQ(layout->stored[0].fragments[0].map.ToString(),
            "[0,2)x[0,3)x[0,8) : (2:24) (3:1) ((2,4):(12,3)) + 0");
}

TEST(RecipeLanguageTest, FaultsOfParts) {
  const auto error = [](const std::string& part,
                        const std::string& shape = "[2, 6]") {
    return Error(
        Yaml(shape, absl::StrCat("    - {name: y, of: x, ", part, "}\n")));
  };
  EXPECT_EQ(error("index: 2"),
            "f.yaml:12: tensors: index 2 is outside of shape [2,6] of \"x\"");
  EXPECT_THAT(error("index: 0", "[2]"), HasSubstr("index 0 is outside"));
  EXPECT_THAT(error("index: 0 - 1"), HasSubstr("index -1 is outside"));
  EXPECT_THAT(error("transpose: yes", "[2, 3, 4]"),
              HasSubstr("only a matrix can be transposed, not [2,3,4]"));
  EXPECT_THAT(error("index: 0, transpose: yes"),
              HasSubstr("only a matrix can be transposed"));
  EXPECT_THAT(error("transpose: maybe"),
              HasSubstr("\"maybe\" is neither yes nor no"));
  for (const char* ways : {"0", "4", "0 - 2", "9223372036854775807"}) {
    EXPECT_THAT(error(absl::StrCat("deinterleave: ", ways, ", unit: 3")),
                HasSubstr("2 rows of \"x\" cannot be dealt in"));
  }
  EXPECT_THAT(error("unit: 2"), HasSubstr("\"unit\" is one of"));
  EXPECT_THAT(error("transform: square"),
              HasSubstr("known are neg_exp, plus_one, minus_one"));
  EXPECT_THAT(error("dtype: f8"), HasSubstr("known are bf16, f16, f32"));
  EXPECT_THAT(Error(Yaml("[2]",
                         "    - {name: y, concat: [zeros: 2, {zeros: "
                         "1, columns: 3}]}\n")),
              HasSubstr("cannot follow"));
}

TEST(RecipeLanguageTest, ATensorOfZerosOnly) {
  const auto layout =
      Layout(Yaml("[2]",
                  "    - {name: y, concat: [{zeros: 2, columns: 3}, {zeros: 1, "
                  "columns: 3}]}\n"),
             "vllm:dtype=f32");
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->stored[0].shape, (tensor::Shape{3, 3}));
  EXPECT_EQ(layout->stored[0].dtype, tensor::DType::kF32);
  EXPECT_TRUE(layout->tensors.empty());
}

TEST(RecipeLanguageTest, DTypesOfRulesAndOfTheCheckpoint) {
  std::string yaml = Yaml("[2], dtype: f32",
                          "    - {name: y, of: x}\n"
                          "    - {name: z, of: x, dtype: f16}\n");
  const auto dtypes = [&](const std::string& spec) {
    std::vector<std::string> names;
    const auto layout = Layout(yaml, spec);
    EXPECT_TRUE(layout.ok()) << layout.status();
    for (const layout::StoredTensor& stored : layout->stored) {
      names.emplace_back(tensor::DTypeName(stored.dtype));
    }
    return names;
  };
  EXPECT_THAT(dtypes("vllm"), ElementsAre("F32", "F16"));
  EXPECT_THAT(dtypes("vllm:dtype=bf16"), ElementsAre("F32", "F16"));
  EXPECT_THAT(dtypes("hf:dtype=bf16"), ElementsAre("F32"));
  yaml = Yaml("[2]",
              "    - {name: y, of: x}\n    - {name: z, of: x, dtype: f16}\n");
  EXPECT_THAT(dtypes("vllm:dtype=f32"), ElementsAre("F32", "F16"));
  // What the checkpoint really has counts for its own tensors.
  const auto recipe =
      ParseRecipe(Yaml("[2], dtype: f32", "    - {name: y, of: x}\n"), "f.yaml")
          .value();
  ModelConfig config;
  config.numbers["layers"] = 1;
  const auto layout = recipe->Layout(config, ParseLayoutSpec("vllm").value(), 0,
                                     {{"x", tensor::DType::kF16, {2}}});
  EXPECT_EQ(layout.value().stored[0].dtype, tensor::DType::kF16);
}

TEST(RecipeLanguageTest, PresenceWordsAndCounts) {
  const std::string yaml = R"(recipe: 1
family: f
architectures: [F]
config:
  L: {key: layers}
  more: {count: more, default: 0}
  kinds: {list: [kinds, pattern]}
  has_y: {present: "y.{L}"}
layers: L
checkpoint:
  tensors:
    - for: {i: 0 .. L}
      tensors:
        - {name: "a.{i}", shape: [2], when: "kinds[i] == 'full' or kinds[i] == '*'"}
    - when: has_y
      tensors:
        - {name: "y.{L}", shape: [1 + more]}
        - {name: z, shape: [1]}
)";
  const auto names = [&](ModelConfig config, std::vector<std::string> held) {
    config.numbers["layers"] = 3;
    const auto logical = ParseRecipe(yaml, "f.yaml")
                             .value()
                             ->LogicalTensorsOf(config, Named(held));
    EXPECT_TRUE(logical.ok()) << logical.status();
    std::vector<std::string> result;
    for (const tensor::TensorSpec& spec :
         logical.value_or(std::vector<tensor::TensorSpec>())) {
      result.push_back(spec.name);
    }
    return result;
  };
  const ModelConfig words =
      ParseModelConfig(
          R"({"architectures": ["F"], "kinds": ["full", "none", "full"]})")
          .value();
  const ModelConfig letters =
      ParseModelConfig(R"({"architectures": ["F"], "pattern": "M*M"})").value();
  EXPECT_THAT(names(words, {}), ElementsAre("a.0", "a.2"));
  EXPECT_THAT(names(letters, {}), ElementsAre("a.1"));
  EXPECT_THAT(names(words, {"y.3"}), ElementsAre("a.0", "a.2", "y.3", "z"));
  EXPECT_THAT(names(words, {"y.2"}), ElementsAre("a.0", "a.2"));
  ModelConfig negative = words;
  negative.numbers = {{"layers", 3}, {"more", -1}};
  EXPECT_THAT(std::string(ParseRecipe(yaml, "f.yaml")
                              .value()
                              ->LogicalTensors(negative)
                              .status()
                              .message()),
              HasSubstr("config field more=-1 is not a count"));
  ModelConfig too_short = letters;
  too_short.numbers["layers"] = 4;
  EXPECT_THAT(std::string(ParseRecipe(yaml, "f.yaml")
                              .value()
                              ->LogicalTensors(too_short)
                              .status()
                              .message()),
              HasSubstr("position 3 is outside of a list of 3"));
}

constexpr std::string_view kDefined = R"(recipe: 1
family: f
architectures: [F]
config:
  L: {key: layers}
define:
  weights:
    - {name: "w{i}", shape: [i + 1]}
  fits:
    - {that: tp < 3, else: "tp={tp} is too much"}
    - use: fits_more
  fits_more:
    - {that: tp != 2, else: "tp is two"}
  stored:
    - {name: "w{i}", of: "w{i}", when: is_vllm}
    - {name: "{routed_experts}{i}", of: "w{i}", when: is_sglang}
layers: L
checkpoint:
  tensors:
    - {for: {i: 0 .. 2}, prefix: "a.", use: weights}
vllm:
  require:
    - use: fits
  tensors:
    - {for: {i: 0 .. 2}, prefix: "b.", of_prefix: "a.", use: stored}
sglang: vllm
)";

TEST(RecipeLanguageTest, DefinitionsAndOneTableForBothEngines) {
  const auto names = [](const std::string& spec) {
    std::vector<std::string> result;
    const auto layout = Layout(std::string(kDefined), spec);
    EXPECT_TRUE(layout.ok()) << layout.status();
    for (const auto& stored : layout->stored) result.push_back(stored.name);
    return result;
  };
  EXPECT_THAT(names("hf"), ElementsAre("a.w0", "a.w1"));
  EXPECT_THAT(names("vllm"), ElementsAre("b.w0", "b.w1"));
  EXPECT_THAT(names("sglang"), ElementsAre("b.experts0", "b.experts1"));
  EXPECT_EQ(Error(std::string(kDefined), "vllm:tp=2"), "vllm:tp=2: tp is two");
  EXPECT_EQ(Error(std::string(kDefined), "vllm:tp=3"),
            "vllm:tp=3: tp=3 is too much");
  const auto edited = [](const std::string& from, const std::string& to) {
    const std::string text =
        absl::StrReplaceAll(std::string(kDefined), {{from, to}});
    EXPECT_NE(text, kDefined);
    return text;
  };
  EXPECT_EQ(Error(edited("use: stored", "use: absent")),
            "f.yaml:25: use: nothing is defined under \"absent\"");
  EXPECT_THAT(Error(edited("use: weights", "use: weights, tensors: []")),
              HasSubstr("a group has \"tensors\" or \"use\", not both"));
  EXPECT_THAT(Error(edited("- use: fits_more", "- use: fits")),
              HasSubstr("nested too deep"));
  EXPECT_THAT(Error(edited("sglang: vllm", "sglang: megatron")),
              HasSubstr("only sglang may say \"vllm\""));
  EXPECT_THAT(Error(edited("i + 1]", "{i}]")), HasSubstr("expected"));
}

TEST(RecipeLanguageTest, DefinitionsThatUseEachOtherDoNotExplode) {
  // Each uses the next eight times: 8^14 rules if nothing stopped it.
  std::string define = "define:\n";
  for (int i = 0; i < 14; ++i) {
    absl::StrAppend(&define, "  d", i, ":\n");
    for (int k = 0; k < 8; ++k) {
      absl::StrAppend(&define, "    - use: d", i + 1, "\n");
    }
  }
  absl::StrAppend(&define, "  d14: []\n");
  EXPECT_THAT(Error(Yaml("[2]", "    - use: d0\n", define)),
              HasSubstr("more than 65536 rules"));
}

TEST(RecipeLanguageTest, SeveralIncludesTheFirstWins) {
  const auto include =
      [](const std::string& name) -> absl::StatusOr<std::string> {
    const std::string n = name == "one.yaml" ? "1" : "2";
    return absl::StrCat("config:\n  a: {value: ", n, "}\n  b", n,
                        ": {value: a + ", n, "}\ndefine:\n  d:\n    - {name: w",
                        n, ", shape: [a]}\nrequire:\n  - {that: a != ", n,
                        ", else: \"a is {a}\"}\n",
                        n == "2" ? "layers: b2\n" : "");
  };
  const std::string head =
      "recipe: 1\nfamily: f\narchitectures: [F]\ninclude: [one.yaml, "
      "two.yaml]\ncheckpoint:\n  tensors:\n    - use: d\n";
  const auto own = ParseRecipeWithIncludes(head + "config:\n  a: {value: 5}\n",
                                           "f.yaml", include);
  ASSERT_TRUE(own.ok()) << own.status();
  const auto logical = (*own)->LogicalTensors({}).value();
  ASSERT_EQ(logical.size(), 1u);
  EXPECT_EQ(logical[0].name, "w1");
  EXPECT_EQ(logical[0].shape, (tensor::Shape{5}));
  const auto first = ParseRecipeWithIncludes(head, "f.yaml", include);
  EXPECT_EQ(std::string((*first)->LogicalTensors({}).status().message()),
            "a is 1");
}

TEST(RecipeLanguageTest, IgnoredGroups) {
  const std::string yaml = Yaml("[2]", "    - {name: y, of: x}\n");
  const auto recipe =
      ParseRecipe(absl::StrReplaceAll(yaml, {{"vllm:",
                                              "  ignore:\n    - {name: mtp.*}\n"
                                              "    - {name: rope}\nvllm:"}}),
                  "f.yaml")
          .value();
  ModelConfig config;
  config.numbers["layers"] = 1;
  const auto holds = [&](const std::string& name) {
    const tensor::TensorSpec x{"x", tensor::DType::kBF16, {2}};
    const bool fits = recipe
                          ->Layout(config, ParseLayoutSpec("hf").value(), 0,
                                   {x, {name, tensor::DType::kBF16, {1}}})
                          .ok();
    EXPECT_EQ(IsIgnored(*recipe, config, name), fits) << name;
    return fits;
  };
  EXPECT_TRUE(holds("mtp.layers.0.w"));
  EXPECT_TRUE(holds("mtp."));
  EXPECT_TRUE(holds("rope"));
  EXPECT_FALSE(holds("mtp"));
  EXPECT_FALSE(holds("rope.x"));
}

}  // namespace
}  // namespace weft::recipe::testing
