#include "weft/recipe/layout_spec.h"

#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weft::recipe {
namespace {

using ::testing::HasSubstr;

LayoutSpec Parse(const std::string& text) {
  const auto spec = ParseLayoutSpec(text);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.value_or(LayoutSpec{});
}

std::string Error(const std::string& text, absl::StatusCode code) {
  const auto spec = ParseLayoutSpec(text);
  EXPECT_FALSE(spec.ok()) << text;
  EXPECT_EQ(spec.status().code(), code) << spec.status();
  return std::string(spec.status().message());
}
std::string Invalid(const std::string& text) {
  return Error(text, absl::StatusCode::kInvalidArgument);
}

TEST(LayoutSpecTest, Frameworks) {
  EXPECT_EQ(Parse("hf").framework, Framework::kHf);
  EXPECT_EQ(Parse("fsdp").framework, Framework::kFsdp);
  EXPECT_EQ(Parse("megatron").framework, Framework::kMegatron);
  EXPECT_EQ(Parse("vllm:tp=2").framework, Framework::kVllm);
  EXPECT_EQ(Parse("sglang:tp=2").framework, Framework::kSglang);
}

TEST(LayoutSpecTest, KeysAndDefaults) {
  const LayoutSpec spec = Parse("megatron:tp=2,first=7,impl=local");
  EXPECT_EQ(spec.Number("tp", 1), 2);
  EXPECT_EQ(spec.Number("pp", 1), 1);
  EXPECT_EQ(spec.Number("first", 0), 7);
  EXPECT_EQ(spec.Number("last", 0), 0);
  EXPECT_EQ(spec.Word("impl", "te"), "local");
  EXPECT_EQ(spec.Word("dtype", "auto"), "auto");
  EXPECT_EQ(spec.numbers.size(), 2u);
}

TEST(LayoutSpecTest, EveryFrameworkTakesADType) {
  for (const char* text : {"hf:dtype=f32", "fsdp:dtype=bf16",
                           "megatron:dtype=f16", "vllm:dtype=f32"}) {
    EXPECT_EQ(Parse(text).ToString(), text);
  }
}

TEST(LayoutSpecTest, CanonicalText) {
  EXPECT_EQ(Parse("hf:dtype=auto").ToString(), "hf");
  EXPECT_EQ(Parse("megatron:last=7,pp=4,first=7,tp=2,cp=1").ToString(),
            "megatron:tp=2,pp=4,first=7,last=7");
  EXPECT_EQ(Parse("fsdp:tp=2,shard=4,names=memory").ToString(),
            "fsdp:shard=4,tp=2");
  EXPECT_EQ(Parse("fsdp:names=hf").ToString(), "fsdp:names=hf");
  // A divisor of 1 pads to a multiple of tp: not the same as none.
  EXPECT_EQ(Parse("megatron:vocab_divisor=1,impl=te").ToString(),
            "megatron:vocab_divisor=1");
  EXPECT_EQ(Parse("vllm:dp=3,tp=1,quant=none").ToString(), "vllm:dp=3");
}

TEST(LayoutSpecTest, CanonicalTextParsesBack) {
  for (const char* text :
       {"hf", "fsdp:shard=8,replicate=2,tp=2,names=hf,dtype=f32",
        "megatron:tp=2,pp=4,cp=3,dp=5,first=1,last=2,vocab_divisor=128,"
        "impl=local,dtype=bf16",
        "megatron:tp=2,dp=4,ep=4,etp=1,experts=sequential",
        "megatron:tp=2,pp=2,vpp=2,embedding_in_split=1,loss_in_split=1,"
        "layout=Ett|(tt|)*2tL,mla=fused",
        "fsdp:shard=8,tp=2,ep=4",
        "vllm:tp=2,pp=3,ep=8,dp=4,placement=round_robin,redundant=3,"
        "quant=fp8-block,dtype=f16",
        "sglang:tp=8,pp=2,ep=4,dp=2,redundant=2,shared_fusion=off,"
        "quant=fp8-block"}) {
    EXPECT_EQ(Parse(text).ToString(), text);
  }
}

TEST(LayoutSpecTest, NeutralValues) {
  EXPECT_EQ(Parse("megatron:vpp=1,ep=1,experts=grouped").ToString(),
            "megatron");
  EXPECT_EQ(Parse("vllm:ep=1,quant=none").ToString(), "vllm");
  EXPECT_EQ(Parse("megatron:loss_in_split=0,mla=split").ToString(), "megatron");
  EXPECT_EQ(Parse("sglang:dp=1,shared_fusion=on").ToString(), "sglang");
}

TEST(LayoutSpecTest, ExpertKeys) {
  // etp defaults to tp, in whatever order they come.
  EXPECT_EQ(Parse("megatron:etp=2,tp=2").ToString(), "megatron:tp=2");
  EXPECT_EQ(Parse("megatron:etp=1").ToString(), "megatron");
  EXPECT_EQ(Parse("megatron:etp=1,ep=2,dp=2,tp=2").ToString(),
            "megatron:tp=2,dp=2,ep=2,etp=1");
  EXPECT_EQ(Parse("vllm:ep=4,tp=4").ToString(), "vllm:tp=4,ep=4");
}

std::string FileWith(const std::string& text) {
  const std::string path = absl::StrCat(
      ::testing::TempDir(), "/layout_spec_test_", getpid(), ".json");
  std::ofstream(path) << text;
  return path;
}

TEST(LayoutSpecTest, ExpertTables) {
  const std::string path =
      FileWith("{\"physical_to_logical\": [[0, 1, 0, 2], [2, 1, 1, 0]]}");
  const LayoutSpec spec = Parse("vllm:tp=2,ep=2,eplb=" + path);
  ASSERT_NE(spec.experts, nullptr);
  EXPECT_EQ(spec.experts->lists,
            (std::vector<std::vector<int64_t>>{{0, 1, 0, 2}, {2, 1, 1, 0}}));
  // What it says is part of the name, and the name parses back.
  const std::string text = spec.ToString();
  EXPECT_EQ(text, "vllm:tp=2,ep=2,eplb=" + path + "@" + spec.experts->hash);
  EXPECT_EQ(Parse(text).ToString(), text);
  // Spaces do not change what it says, numbers do.
  FileWith("{\"physical_to_logical_map\": [[0,1,0,2],[2,1,1,0]]}");
  EXPECT_EQ(Parse(text).ToString(), text);
  FileWith("{\"physical_to_logical\": [0, 1, 2]}");
  EXPECT_THAT(Invalid(text), HasSubstr(" now, not " + spec.experts->hash));
  EXPECT_NE(Parse("vllm:eplb=" + path).ToString(), "vllm:eplb=" + text);
}

TEST(LayoutSpecTest, RefusesExpertTables) {
  for (const char* text :
       {"", "[", "[]", "{}", "{\"physical_to_logical\": []}",
        "{\"physical_to_logical\": 3}", "{\"physical_to_logical\": [[0], 1]}",
        "{\"physical_to_logical\": [0, [1]]}",
        "{\"physical_to_logical\": [-1]}", "{\"physical_to_logical\": [1.5]}",
        "{\"physical_to_logical\": [18446744073709551615]}",
        "{\"physical_to_logical\": [[]]}"}) {
    EXPECT_THAT(Invalid("vllm:eplb=" + FileWith(text)), HasSubstr("eplb="))
        << text;
  }
  EXPECT_THAT(
      std::string(
          ParseLayoutSpec("vllm:eplb=/no/such.json").status().message()),
      HasSubstr("the expert table of eplb=: cannot read \"/no/such.json\""));
}

TEST(LayoutSpecTest, Refuses) {
  EXPECT_EQ(Invalid("tensorrt"),
            "layout \"tensorrt\": unknown framework \"tensorrt\"; known are "
            "hf, fsdp, megatron, vllm, sglang");
  EXPECT_EQ(Invalid("vllm:tpp=2"),
            "layout \"vllm:tpp=2\": unknown key \"tpp\" of vllm; known are tp, "
            "pp, ep, dp, placement, redundant, eplb, quant, scales, dtype");
  EXPECT_THAT(
      Invalid("fsdp:pp=2"),
      HasSubstr(
          "known are shard, replicate, tp, ep, names, quant, scales, dtype"));
  EXPECT_THAT(Invalid("hf:tp=2"), HasSubstr("known are quant, scales, dtype"));
  EXPECT_THAT(Invalid("megatron:tp=2,tp=2"), HasSubstr("tp is given twice"));
  EXPECT_THAT(Invalid("hf:dtype=f32,dtype=f32"), HasSubstr("given twice"));
  EXPECT_THAT(Invalid("megatron:impl=core"),
              HasSubstr("impl=core is unknown; known are te, local"));
  EXPECT_THAT(Invalid("hf:dtype=fp8"),
              HasSubstr("known are auto, bf16, f16, f32"));
  for (const char* bad :
       {"0", "-1", "+1", "two", "", " 2", "2 ", "1.5", "9223372036854775808"}) {
    EXPECT_THAT(Invalid(std::string("vllm:tp=") + bad),
                HasSubstr("is no positive integer"));
  }
  EXPECT_THAT(Invalid("vllm:tp"), HasSubstr("\"tp\" is not key=value"));
  EXPECT_THAT(Invalid("vllm:"), HasSubstr("\"\" is not key=value"));
  EXPECT_THAT(Invalid("vllm:tp=2,"), HasSubstr("\"\" is not key=value"));
  EXPECT_THAT(Invalid(""), HasSubstr("unknown framework \"\""));
  EXPECT_THAT(Invalid("VLLM"), HasSubstr("unknown framework \"VLLM\""));
}

}  // namespace
}  // namespace weft::recipe
