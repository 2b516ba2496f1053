// Random models and degrees against the element-by-element oracle: names,
// order, shapes and the origin of every element, on every rank.

#include "weft/recipe/testing/oracle.h"

#include <rapidcheck.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/testing/model.h"
#include "weft/recipe/testing/origin_table.h"

namespace weft::recipe::testing {
namespace {

int64_t Pick(std::vector<int64_t> choices) {
  return *rc::gen::elementOf(std::move(choices));
}
int64_t Between(int64_t low, int64_t high) {
  return *rc::gen::inRange<int64_t>(low, high + 1);
}

// Heads, widths and the vocabulary before any degree is known.
Model RandomModel() {
  Model model;
  model.architecture = *rc::gen::elementOf(
      std::vector<std::string>{"LlamaForCausalLM", "MistralForCausalLM",
                               "Qwen2ForCausalLM", "Qwen3ForCausalLM"});
  model.G = Pick({1, 2, 3, 4});
  model.Hq = model.G * Between(1, 4);
  model.D = Between(1, 4);
  model.H = Between(1, 5);
  model.I = Between(1, 9);
  model.V = Between(1, 140);
  model.L = Between(1, 4);
  model.tied = *rc::gen::arbitrary<bool>();
  if (model.architecture == "LlamaForCausalLM") {
    model.attention_bias = *rc::gen::arbitrary<bool>();
    model.mlp_bias = *rc::gen::arbitrary<bool>();
  }
  return model;
}

// A degree that the heads allow; the MLP is widened to suit.
int64_t RandomTp(Model& model) {
  std::vector<int64_t> allowed;
  for (int64_t tp = 1; tp <= 8; ++tp) {
    const bool groups_fit = model.G % tp == 0 || tp % model.G == 0;
    const int64_t merged = (model.Hq + 2 * model.G) * model.D;
    if (model.Hq % tp == 0 && groups_fit && merged % tp == 0) {
      allowed.push_back(tp);
    }
  }
  const int64_t tp = Pick(allowed);
  model.I = (model.I + tp - 1) / tp * tp;
  return tp;
}

void ExpectSame(const RankLayout& layout,
                const std::vector<OracleTensor>& want) {
  std::vector<std::string> names, want_names;
  for (const layout::StoredTensor& one : layout.stored) {
    names.push_back(one.name);
  }
  for (const OracleTensor& one : want) want_names.push_back(one.name);
  RC_ASSERT(names == want_names);
  std::set<std::string> used, listed;
  for (std::size_t t = 0; t < want.size(); ++t) {
    const layout::StoredTensor& stored = layout.stored[t];
    tensor::Shape shape{want[t].rows};
    if (want[t].columns >= 0) shape.push_back(want[t].columns);
    RC_ASSERT(stored.shape == shape);
    RC_ASSERT(stored.dtype == tensor::DType::kBF16);
    RC_ASSERT(layout::CheckTiling(stored, layout.tensors, false).ok());
    const std::vector<Origin> origins = OriginsOf(layout, stored);
    const int64_t columns = ColumnsOf(stored);
    for (std::size_t i = 0; i < origins.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / columns;
      const int64_t column =
          want[t].columns < 0 ? -1 : static_cast<int64_t>(i) % columns;
      const Origin expected = want[t].origin(row, column);
      RC_ASSERT(origins[i] == expected);
      if (expected != Zero()) used.insert(expected.tensor);
    }
  }
  // Exactly the tensors that some element comes from.
  for (const tensor::TensorSpec& spec : layout.tensors) {
    listed.insert(spec.name);
  }
  RC_ASSERT(listed == used);
  RC_ASSERT(listed.size() == layout.tensors.size());
}

TEST(OracleTest, Megatron) {
  ASSERT_TRUE(rc::check("megatron", [] {
    Model model = RandomModel();
    MegatronDegrees at;
    at.tp = RandomTp(model);
    at.cp = Between(1, 2);
    at.dp = Between(1, 2);
    at.pp = Between(1, 3);
    model.L = at.pp * Between(1, 2);
    at.local = *rc::gen::arbitrary<bool>();
    at.vocab_divisor = Between(0, 5);
    if (at.vocab_divisor == 0) {
      model.V = (model.V + at.tp - 1) / at.tp * at.tp;
    }
    const std::string spec = absl::StrCat(
        "megatron:tp=", at.tp, ",pp=", at.pp, ",cp=", at.cp, ",dp=", at.dp,
        at.local ? ",impl=local" : "",
        at.vocab_divisor > 0 ? absl::StrCat(",vocab_divisor=", at.vocab_divisor)
                             : "");
    RC_LOG() << spec << " " << model.ConfigJson() << "\n";
    const std::vector<RankLayout> ranks = AllRanks(model, spec);
    RC_ASSERT(static_cast<int64_t>(ranks.size()) ==
              at.tp * at.pp * at.cp * at.dp);
    for (const RankLayout& layout : ranks) {
      ExpectSame(layout, MegatronOracle(model, at, layout.rank));
    }
  }));
}

TEST(OracleTest, Vllm) {
  ASSERT_TRUE(rc::check("vllm", [] {
    Model model = RandomModel();
    VllmDegrees at;
    at.tp = RandomTp(model);
    at.pp = Between(1, 3);
    at.dp = Between(1, 2);
    // Whatever the padding to 64 comes to must be shared evenly.
    while ((model.V + 63) / 64 * 64 % at.tp != 0) model.V += 64;
    const std::string spec =
        absl::StrCat("vllm:tp=", at.tp, ",pp=", at.pp, ",dp=", at.dp);
    RC_LOG() << spec << " " << model.ConfigJson() << "\n";
    const std::vector<RankLayout> ranks = AllRanks(model, spec);
    RC_ASSERT(static_cast<int64_t>(ranks.size()) == at.tp * at.pp * at.dp);
    for (const RankLayout& layout : ranks) {
      ExpectSame(layout, VllmOracle(model, at, layout.rank));
    }
  }));
}

TEST(OracleTest, Fsdp) {
  ASSERT_TRUE(rc::check("fsdp", [] {
    const Model model = RandomModel();
    const FsdpDegrees at{.shard = Between(1, 7),
                         .replicate = Between(1, 2),
                         .tp = Between(1, 3)};
    const std::string spec = absl::StrCat(
        "fsdp:shard=", at.shard, ",replicate=", at.replicate, ",tp=", at.tp);
    RC_LOG() << spec << " " << model.ConfigJson() << "\n";
    const std::vector<RankLayout> ranks = AllRanks(model, spec);
    RC_ASSERT(static_cast<int64_t>(ranks.size()) ==
              at.shard * at.replicate * at.tp);
    for (const RankLayout& layout : ranks) {
      ExpectSame(layout, FsdpOracle(model, at, layout.rank));
    }
  }));
}

TEST(OracleTest, HfIsTheWholeCheckpoint) {
  ASSERT_TRUE(rc::check("hf", [] {
    const Model model = RandomModel();
    const std::vector<RankLayout> ranks = AllRanks(model, "hf");
    RC_ASSERT(ranks.size() == 1u);
    ExpectSame(ranks.front(), FsdpOracle(model, {}, 0));
  }));
}

TEST(OracleTest, LogicalTensors) {
  ASSERT_TRUE(rc::check("logical", [] {
    const Model model = RandomModel();
    const auto logical =
        RecipeFor(model).LogicalTensors(model.Config()).value();
    const std::vector<CheckpointTensor> want = CheckpointOf(model);
    RC_ASSERT(logical.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      tensor::Shape shape{want[i].rows};
      if (want[i].columns >= 0) shape.push_back(want[i].columns);
      RC_ASSERT(logical[i].name == want[i].name);
      RC_ASSERT(logical[i].shape == shape);
    }
  }));
}

}  // namespace
}  // namespace weft::recipe::testing
