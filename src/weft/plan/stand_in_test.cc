#include "weft/plan/stand_in.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"

namespace weft::plan {
namespace {

using tensor::DType;

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int64_t Below(int64_t limit) {
    return std::uniform_int_distribution<int64_t>(0, limit - 1)(random_);
  }
  bool OneIn(int64_t many) { return Below(many) == 0; }

 private:
  std::mt19937_64 random_;
};

tensor::Range AnyRange(Dice& dice, int64_t extent) {
  const int64_t begin = dice.Below(extent);
  return {begin, begin + 1 + dice.Below(extent - begin)};
}

// Boxes of up to three small tensors, each a stored tensor of its own; the
// first ones are whole more often than by chance.
manifest::Placement AnyPlacement(Dice& dice, int64_t boxes) {
  manifest::Placement placement;
  placement.layout_spec = absl::StrCat("layout ", dice.Below(9));
  std::vector<std::string> names = {"a", "b", "c"};
  if (dice.OneIn(2)) std::swap(names[0], names[2]);
  for (const std::string& name : names) {
    const int64_t rows = name == "a" && dice.OneIn(30) ? 5 : 4;
    const DType dtype =
        name == "b" && dice.OneIn(30) ? DType::kF32 : DType::kBF16;
    placement.tensors.push_back({name, dtype, {rows, 3}});
  }
  for (int64_t i = 0; i < boxes; ++i) {
    const auto tensor = static_cast<int32_t>(dice.Below(3));
    const tensor::Shape& whole = placement.tensors[tensor].shape;
    const bool all = dice.OneIn(2);
    const tensor::Box box = *tensor::Box::Make(
        {all ? tensor::Range{0, whole[0]} : AnyRange(dice, whole[0]),
         all ? tensor::Range{0, whole[1]} : AnyRange(dice, whole[1])});
    layout::StoredTensor stored;
    stored.name = absl::StrCat("stored ", i);
    stored.dtype = dice.OneIn(9) ? DType::kF8E4M3 : DType::kBF16;
    stored.shape = box.shape();
    layout::Fragment fragment{
        tensor, *layout::IndexMap::RowMajor(box, stored.shape, {0, 0})};
    if (dice.OneIn(9)) fragment.transform = tensor::Transform::kNegExp;
    stored.fragments.push_back(fragment);
    placement.stored.push_back(std::move(stored));
  }
  return placement;
}

// Element by element, with all that must be equal.
using Element = std::tuple<std::string, tensor::Shape, DType, DType,
                           tensor::Transform, int64_t, int64_t>;

std::set<Element> Elements(const manifest::Placement& placement) {
  std::set<Element> elements;
  for (const auto& stored : placement.stored) {
    for (const auto& fragment : stored.fragments) {
      const tensor::TensorSpec& spec = placement.tensors[fragment.tensor];
      const tensor::Box& box = fragment.map.box();
      for (int64_t r = box.range(0).begin; r < box.range(0).end; ++r) {
        for (int64_t c = box.range(1).begin; c < box.range(1).end; ++c) {
          elements.insert({spec.name, spec.shape, spec.dtype, stored.dtype,
                           fragment.transform, r, c});
        }
      }
    }
  }
  return elements;
}

TEST(StandInTest, IsWhatTheElementsSay) {
  const char* given = std::getenv("WEFT_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10)
                                         : std::random_device()();
  SCOPED_TRACE(absl::StrCat("repeat with WEFT_TEST_SEED=", seed));
  Dice dice(seed);
  std::map<bool, int> seen;
  for (int i = 0; i < 4000; ++i) {
    const manifest::Placement holder = AnyPlacement(dice, 1 + dice.Below(12));
    const manifest::Placement shard = AnyPlacement(dice, 1 + dice.Below(3));
    const std::set<Element> held = Elements(holder);
    const std::set<Element> wanted = Elements(shard);
    const bool expected =
        std::includes(held.begin(), held.end(), wanted.begin(), wanted.end());
    ASSERT_EQ(CanStandInFor(holder, shard), expected) << "pair " << i;
    ++seen[expected];
  }
  EXPECT_GT(seen[true], 100);
  EXPECT_GT(seen[false], 100);
}

TEST(StandInTest, WhoHoldsTheSameStandsIn) {
  Dice dice(7);
  const manifest::Placement whole = AnyPlacement(dice, 9);
  manifest::Placement other = whole;
  other.rank = 3;
  other.num_ranks = 4;
  EXPECT_TRUE(CanStandInFor(whole, other));
  EXPECT_TRUE(CanStandInFor(other, whole));
  // Of a rank that holds nothing nothing is missed.
  other.stored.clear();
  EXPECT_TRUE(CanStandInFor(whole, other));
  EXPECT_FALSE(CanStandInFor(other, whole));
}

}  // namespace
}  // namespace weft::plan
