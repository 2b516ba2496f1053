#include <gtest/gtest.h>

#include "modelexpress_p2p.pb.h"
#include "weft/catalog/modelexpress/source_id_internal.h"

namespace weft::catalog {
namespace {

namespace mx = ::model_express::p2p;

// The ids are ModelExpress's own: its two implementations are held to them.
mx::SourceIdentity DeepSeek() {
  mx::SourceIdentity identity;
  identity.set_mx_version("0.5.0");
  identity.set_model_name("deepseek-ai/DeepSeek-V3");
  identity.set_backend_framework(mx::BACKEND_FRAMEWORK_VLLM);
  identity.set_tensor_parallel_size(8);
  identity.set_pipeline_parallel_size(1);
  identity.set_dtype("bfloat16");
  return identity;
}

TEST(SourceIdTest, KnownIds) {
  EXPECT_EQ(ModelExpressSourceId(DeepSeek()), "5a5f555570065064");

  mx::SourceIdentity revised = DeepSeek();
  revised.set_revision("abc123def4567890");
  EXPECT_EQ(ModelExpressSourceId(revised), "d0c184b2a9a34c82");

  mx::SourceIdentity trainer;
  trainer.set_mx_version("0.5.0");
  trainer.set_model_name("Qwen/Qwen3-30B-A3B");
  trainer.set_backend_framework(mx::BACKEND_FRAMEWORK_VLLM);
  (*trainer.mutable_extra_parameters())["role"] = "trainer";
  EXPECT_EQ(ModelExpressSourceId(trainer), "c4e61b30fc177b44");
}

TEST(SourceIdTest, OfKeysThatDifferInCaseTheFirstCounts) {
  mx::SourceIdentity identity = DeepSeek();
  (*identity.mutable_extra_parameters())["foo"] = "b";
  (*identity.mutable_extra_parameters())["Foo"] = "a";
  EXPECT_EQ(ModelExpressSourceId(identity), "bf71fb9340cd940a");
}

TEST(SourceIdTest, CaseDoesNotCountAndEachOptionalFieldDoes) {
  mx::SourceIdentity loud = DeepSeek();
  loud.set_model_name("DEEPSEEK-AI/deepseek-V3");
  loud.set_dtype("BFloat16");
  EXPECT_EQ(ModelExpressSourceId(loud), "5a5f555570065064");
  loud.set_gpu_arch("sm_90");
  EXPECT_NE(ModelExpressSourceId(loud), "5a5f555570065064");
}

}  // namespace
}  // namespace weft::catalog
