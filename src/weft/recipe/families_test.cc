// The families against the tables of real models: how many tensors a checkpoint
// has, of how many parameters; and that every framework's table tiles what it
// stores, on every rank of small models.

#include "weft/recipe/testing/families.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/testing/model.h"

namespace weft::recipe::testing {
namespace {

struct Totals {
  int64_t num_tensors = 0;
  int64_t num_parameters = 0;
  friend bool operator==(const Totals&, const Totals&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Totals& totals) {
    return out << totals.num_tensors << " tensors, " << totals.num_parameters
               << " parameters";
  }
};

// `held`: names that tell what the checkpoint has beside the rest.
Totals TotalsOf(const Family& family, const std::vector<std::string>& held) {
  const auto logical =
      RecipeOf(family).LogicalTensorsOf(ConfigOf(family), held);
  EXPECT_TRUE(logical.ok()) << logical.status();
  Totals totals;
  if (!logical.ok()) return totals;
  for (const tensor::TensorSpec& spec : *logical) {
    int64_t elements = 1;
    for (const int64_t extent : spec.shape) elements *= extent;
    ++totals.num_tensors;
    totals.num_parameters += elements;
  }
  return totals;
}

TEST(FamiliesTest, TotalsOfRealModels) {
  const auto totals = [](const Family& family,
                         std::vector<std::string> held = {}) {
    return TotalsOf(family, held);
  };
  EXPECT_EQ(totals(DeepseekV3()), (Totals{45'395, 671'026'419'200}));
  EXPECT_EQ(totals(DeepseekV3(), {"model.layers.61.eh_proj.weight",
                                  "model.layers.61.embed_tokens.weight",
                                  "model.layers.61.shared_head.head.weight"}),
            (Totals{46'183, 684'489'845'504}));
  EXPECT_EQ(totals(KimiK2()), (Totals{69'975, 1'026'408'232'448}));
  EXPECT_EQ(totals(Glm5()), (Totals{59'079, 743'911'218'432}));
  EXPECT_EQ(totals(Glm5(), {"model.layers.78.eh_proj.weight"}),
            (Totals{59'870, 753'864'139'008}));
  EXPECT_EQ(totals(Glm52()), (Totals{58'794, 743'377'019'904}));
  // A file of GLM-5.2 with the indexer in every layer is as large as GLM-5's.
  EXPECT_EQ(totals(Glm52(), {"model.layers.3.self_attn.indexer.wk.weight"}),
            totals(Glm5()));
  EXPECT_EQ(totals(Glm45()), (Totals{44'189, 352'797'829'024}));
  EXPECT_EQ(totals(Glm45(), {"model.layers.92.eh_proj.weight",
                             "model.layers.92.embed_tokens.weight",
                             "model.layers.92.shared_head.head.weight"}),
            (Totals{44'691, 358'337'791'296}));
  EXPECT_EQ(totals(Glm45Air()), (Totals{17'925, 106'852'251'264}));
  EXPECT_EQ(totals(GptOss120b()), (Totals{615, 116'829'156'672}));
  EXPECT_EQ(totals(GptOss20b()), (Totals{411, 20'914'757'184}));
  EXPECT_EQ(totals(Nemotron3Nano()), (Totals{6'243, 31'577'940'288}));
}

// `all`: laid out with what other ranks' rules came to; `alone`: each rule
// anew.
void ExpectSame(const RankLayout& all, const RankLayout& alone) {
  EXPECT_EQ(all.layout_spec, alone.layout_spec);
  EXPECT_EQ(all.rank, alone.rank);
  EXPECT_EQ(all.num_ranks, alone.num_ranks);
  EXPECT_EQ(all.tensors, alone.tensors);
  EXPECT_EQ(all.stored, alone.stored);
  EXPECT_EQ(all.scaled, alone.scaled);
  EXPECT_EQ(all.origins, alone.origins);
}

// Every layout of a small model of each family holds each element of each of
// its stored tensors once, and its parts in all the whole checkpoint but for
// what `unused` says.
void ExpectTiles(const Family& family, const std::string& spec_text) {
  SCOPED_TRACE(absl::StrCat(family.architecture, " ", spec_text));
  const ModelConfig config = ConfigOf(family);
  const Recipe& recipe = RecipeOf(family);
  const auto logical = recipe.LogicalTensorsOf(config, family.held);
  ASSERT_TRUE(logical.ok()) << logical.status();
  const auto spec = ParseLayoutSpec(spec_text);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto num_ranks = recipe.NumRanks(config, *spec);
  ASSERT_TRUE(num_ranks.ok()) << num_ranks.status();
  const auto all = recipe.Layouts(config, *spec, *logical);
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(static_cast<int64_t>(all->size()), *num_ranks);
  for (int64_t rank = 0; rank < *num_ranks; ++rank) {
    const auto layout = recipe.Layout(config, *spec, rank, *logical);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_GT(layout->stored.size(), 5u);
    ExpectSame((*all)[rank], *layout);
    ASSERT_EQ(layout->origins.size(), layout->stored.size());
    for (std::size_t i = 0; i < layout->stored.size(); ++i) {
      const absl::Status tiles =
          layout::CheckTiling(layout->stored[i], layout->tensors, false);
      EXPECT_TRUE(tiles.ok()) << layout->origins[i] << ": " << tiles;
    }
  }
}

TEST(FamiliesTest, SmallModelsOnEveryRank) {
  for (const Family& family : SmallFamilies()) {
    for (const std::string& spec : family.specs) ExpectTiles(family, spec);
  }
}

}  // namespace
}  // namespace weft::recipe::testing
