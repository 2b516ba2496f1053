#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "weft/plan/plan.h"
#include "weft/plan/source_table.h"
#include "weft/plan/testing/random_world.h"

namespace weft::plan {
namespace {

using ::testing::HasSubstr;
using testing::Pick;
using testing::Rng;
using testing::World;

manifest::Placement OneTensor(int64_t rank, int64_t num_ranks) {
  manifest::Placement placement;
  placement.layout_spec = "source";
  placement.rank = rank;
  placement.num_ranks = num_ranks;
  placement.tensors = {{"x", tensor::DType::kBF16, {4, 8}}};
  layout::StoredTensor stored;
  stored.name = "x.local";
  stored.shape = {4, 8};
  const tensor::Box box = testing::MakeBox({{0, 4}, {0, 8}});
  stored.fragments.push_back(
      {0, *layout::IndexMap::RowMajor(box, stored.shape, tensor::Shape{0, 0})});
  placement.stored.push_back(stored);
  return placement;
}

std::string FaultsOf(const std::vector<manifest::Placement>& placements) {
  std::vector<SourceInfo> infos;
  for (const auto& each : placements) infos.push_back({&each, {}, 0});
  const auto index = SourceIndex::Make(infos);
  if (index.ok()) return "";
  EXPECT_EQ(index.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(index.status().message());
}

TEST(SourceIndex, TakesAMesh) {
  EXPECT_EQ(FaultsOf({OneTensor(1, 2), OneTensor(0, 2)}), "");
  EXPECT_EQ(FaultsOf({OneTensor(1, 2)}), "");  // incomplete is no fault
}

TEST(SourceIndex, RefusesNothingAtAll) {
  EXPECT_THAT(FaultsOf({}), HasSubstr("no source rank"));
  EXPECT_EQ(SourceIndex::Make({SourceInfo()}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SourceIndex, ReportsAllFaultsAtOnce) {
  manifest::Placement spec = OneTensor(1, 4);
  spec.layout_spec = "other";
  manifest::Placement size = OneTensor(2, 5);
  manifest::Placement shape = OneTensor(3, 4);
  shape.tensors[0].shape = {8, 8};
  shape.tensors[0].dtype = tensor::DType::kF32;
  manifest::Placement high = OneTensor(9, 4);
  const std::string faults =
      FaultsOf({OneTensor(0, 4), OneTensor(0, 4), spec, size, shape, high});
  EXPECT_THAT(faults, HasSubstr("source rank 0 is given twice"));
  EXPECT_THAT(faults, HasSubstr("source rank 1 has layout \"other\" but source "
                                "rank 0 has \"source\""));
  EXPECT_THAT(faults, HasSubstr("source rank 2 is of a mesh of 5 ranks but "
                                "source rank 0 of one of 4"));
  EXPECT_THAT(faults, HasSubstr("tensor \"x\" is BF16 [4,8] at source rank 0 "
                                "but F32 [8,8] at source rank 3"));
  EXPECT_THAT(faults, HasSubstr("source rank 9 is not below"));
}

TEST(SourceIndex, RefusesFragmentsOutsideTheirTensors) {
  manifest::Placement missing = OneTensor(0, 3);
  missing.stored[0].fragments[0].tensor = 7;
  manifest::Placement outside = OneTensor(1, 3);
  outside.tensors[0].shape = {2, 8};
  manifest::Placement beyond = OneTensor(2, 3);
  beyond.stored[0].shape = {3, 8};
  EXPECT_THAT(FaultsOf({missing}), HasSubstr("logical tensor 7 of 1"));
  EXPECT_THAT(FaultsOf({outside}), HasSubstr("whose shape is [2,8]"));
  EXPECT_THAT(FaultsOf({beyond}), HasSubstr("up to element 32 of 24"));
  manifest::Placement huge = OneTensor(0, 3);
  huge.stored[0].shape = {int64_t{1} << 40, int64_t{1} << 40};
  EXPECT_THAT(FaultsOf({huge}), HasSubstr("no size in 64 bits"));
}

TEST(SourceIndex, DigestIsThatOfTheSourcesByRank) {
  const manifest::Placement zero = OneTensor(0, 2), one = OneTensor(1, 2);
  const manifest::LayoutDigest a = manifest::DigestOf("a");
  const manifest::LayoutDigest b = manifest::DigestOf("b");
  const auto index = SourceIndex::Make({{&one, b, 3}, {&zero, a, 5}});
  ASSERT_TRUE(index.ok());
  EXPECT_EQ((*index)->digest(), manifest::CombineDigests({a, b}));
  EXPECT_EQ((*index)->sources()[0].placement, &zero);
  EXPECT_EQ((*index)->sources()[1].distance, 3);
}

// Compared with looking at every fragment of every source.
TEST(SourceTable, FindsTheFragmentsThatMeetABox) {
  ASSERT_TRUE(rc::check("find == scan", [] {
    Rng rng(*rc::gen::noShrink(rc::gen::inRange<uint64_t>(0, 1u << 30)));
    const World world = testing::MakeRandomWorld(rng);
    const auto table = SourceTable::Build(testing::InfosOf(world));
    RC_ASSERT(table.ok());
    for (const testing::LogicalTensor& logical : world.tensors) {
      const TensorEntry* entry = (*table)->Find(logical.spec.name);
      RC_ASSERT(entry != nullptr);
      std::vector<tensor::Range> ranges;
      for (const int64_t extent : logical.spec.shape) {
        const int64_t begin = Pick(rng, 0, extent - 1);
        ranges.push_back({begin, Pick(rng, begin + 1, extent)});
      }
      const tensor::Box box = testing::MakeBox(ranges);
      std::vector<const BoxGroup*> groups;
      (*table)->FindGroups(*entry, box, groups);
      using Key = std::vector<int64_t>;
      std::multiset<Key> found, expected;
      for (const BoxGroup* group : groups) {
        const auto [first, end] = SourceTable::MembersIn(*entry, *group, box);
        for (const Candidate& each : (*table)->CandidatesOf(*group)) {
          for (int64_t member = first; member < end; ++member) {
            found.insert({each.SourceOf(member), each.stored, each.fragment});
            RC_ASSERT((*table)->FragmentOf(each, member).map.box() ==
                      SourceTable::MemberBox(*entry, *group, member));
          }
        }
      }
      for (size_t s = 0; s < world.sources.size(); ++s) {
        const manifest::Placement& placement = world.sources[s].placement;
        for (size_t i = 0; i < placement.stored.size(); ++i) {
          const auto& fragments = placement.stored[i].fragments;
          for (size_t f = 0; f < fragments.size(); ++f) {
            if (placement.tensors[fragments[f].tensor].name !=
                logical.spec.name) {
              continue;
            }
            if (tensor::Intersect(fragments[f].map.box(), box).empty())
              continue;
            expected.insert({static_cast<int64_t>(s), static_cast<int64_t>(i),
                             static_cast<int64_t>(f)});
          }
        }
      }
      RC_ASSERT(found == expected);
    }
    RC_ASSERT((*table)->Find("no such tensor") == nullptr);
  }));
}

TEST(SourceTable, CutsTheListOfMissingRanks) {
  const manifest::Placement one = OneTensor(3, 1 << 20);
  const auto table = SourceTable::Build({{&one, {}, 0}});
  ASSERT_TRUE(table.ok());
  EXPECT_EQ((*table)->MissingRanksText(),
            "source ranks 0,1,2,4,5,6,7,8 and 1048567 more of 1048576 have not "
            "published");
}

}  // namespace
}  // namespace weft::plan
