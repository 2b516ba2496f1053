#include "weft/recipe/model_config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weft::recipe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

std::string Error(const std::string& json) {
  const auto config = ParseModelConfig(json);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

tensor::DType DTypeOf(const std::string& fields) {
  return ParseModelConfig("{\"architectures\": [\"A\"]" + fields + "}")
      .value()
      .dtype;
}

TEST(ModelConfigTest, FlatNumbersAndFlags) {
  const ModelConfig config = ParseModelConfig(R"({
      "architectures": ["Qwen3ForCausalLM", "Other"],
      "hidden_size": 1024, "tie_word_embeddings": true,
      "attention_bias": false, "head_dim": null, "rms_norm_eps": 1e-6,
      "negative": -3, "too_large": 18446744073709551615,
      "eos_token_id": [1, 2], "rope_scaling": {"factor": 8},
      "hidden_act": "silu", "torch_dtype": "bfloat16"})")
                                 .value();
  EXPECT_EQ(config.architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(config.dtype, tensor::DType::kBF16);
  EXPECT_THAT(config.numbers,
              UnorderedElementsAre(
                  Pair("hidden_size", 1024), Pair("tie_word_embeddings", 1),
                  Pair("attention_bias", 0), Pair("negative", -3)));
}

TEST(ModelConfigTest, ListsOfIntegers) {
  const ModelConfig config = ParseModelConfig(R"({
      "architectures": ["A"], "mlp_only_layers": [3, -1], "none": [],
      "mixed": [1, "two"], "flags": [true], "fractions": [1.5],
      "nested": [[1]], "too_large": [18446744073709551615], "number": 3})")
                                 .value();
  EXPECT_THAT(config.lists,
              UnorderedElementsAre(Pair("mlp_only_layers", ElementsAre(3, -1)),
                                   Pair("none", ElementsAre())));
}

TEST(ModelConfigTest, DTypes) {
  EXPECT_EQ(DTypeOf(""), tensor::DType::kBF16);
  EXPECT_EQ(DTypeOf(", \"torch_dtype\": null"), tensor::DType::kBF16);
  EXPECT_EQ(DTypeOf(", \"torch_dtype\": \"float16\""), tensor::DType::kF16);
  EXPECT_EQ(DTypeOf(", \"torch_dtype\": \"torch.float32\""),
            tensor::DType::kF32);
  // The newer key wins.
  EXPECT_EQ(DTypeOf(", \"torch_dtype\": \"float16\", \"dtype\": \"float32\""),
            tensor::DType::kF32);
}

TEST(ModelConfigTest, Refuses) {
  EXPECT_THAT(Error("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error("{}"), HasSubstr("no field architectures"));
  EXPECT_THAT(Error("{\"architectures\": []}"), HasSubstr("architectures"));
  EXPECT_THAT(Error("{\"architectures\": [3]}"), HasSubstr("architectures"));
  EXPECT_THAT(Error("{\"architectures\": null}"), HasSubstr("architectures"));
  EXPECT_THAT(Error(R"({"architectures": ["A"], "torch_dtype": "int3"})"),
              HasSubstr("torch_dtype=\"int3\" is no dtype that Weft knows"));
  EXPECT_THAT(Error(R"({"architectures": ["A"], "dtype": 3})"),
              HasSubstr("dtype is not a string"));
}

TEST(ModelConfigTest, LoadsAFileOrItsDirectory) {
  std::string pattern =
      (std::filesystem::temp_directory_path() / "weft_config_XXXXXX").string();
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const std::filesystem::path dir(pattern);
  EXPECT_EQ(LoadModelConfig(dir.string()).status().code(),
            absl::StatusCode::kNotFound);
  std::ofstream(dir / "config.json")
      << R"({"architectures": ["A"], "hidden_size": 4})";
  EXPECT_EQ(LoadModelConfig(dir.string()).value().numbers.at("hidden_size"), 4);
  EXPECT_EQ(
      LoadModelConfig((dir / "config.json").string()).value().architecture,
      "A");
  std::ofstream(dir / "bad.json") << "{";
  EXPECT_THAT(
      std::string(
          LoadModelConfig((dir / "bad.json").string()).status().message()),
      HasSubstr("bad.json: config is not valid JSON"));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace weft::recipe
