#include "weft/layout/mode.h"

#include <gtest/gtest.h>

#include <limits>

#include "weft/layout/testing/oracle.h"

namespace weft::layout {
namespace {

using testing::AnyModes;
using testing::DigitOffset;

TEST(ModeTest, Prints) {
  EXPECT_EQ(ToString(DimModes{{6, 1}}), "(6:1)");
  EXPECT_EQ(ToString(DimModes{{6, 1}, {4, 8}}), "((6,4):(1,8))");
  EXPECT_EQ(ToString(DimModes{}), "(1:0)");
}

TEST(ModeTest, OffsetsFollowTheDigits) {
  ASSERT_TRUE(rc::check("ExtentOf, OffsetOf", [] {
    const DimModes modes = AnyModes(300);
    RC_LOG() << ToString(modes) << '\n';
    int64_t extent = 1;
    for (const Mode& mode : modes) extent *= mode.extent;
    RC_ASSERT(ExtentOf(modes) == extent);
    for (int64_t i = 0; i < extent; ++i) {
      RC_ASSERT(OffsetOf(modes, i) == DigitOffset(modes, i));
    }
  }));
}

TEST(ModeTest, CoalesceKeepsTheFunction) {
  ASSERT_TRUE(rc::check("Coalesce", [] {
    const DimModes modes = AnyModes(300);
    const DimModes result = Coalesce(modes);
    RC_LOG() << ToString(modes) << " -> " << ToString(result) << '\n';
    int64_t extent = 1;
    for (const Mode& mode : modes) extent *= mode.extent;
    RC_ASSERT(ExtentOf(result) == extent);
    for (int64_t i = 0; i < extent; ++i) {
      RC_ASSERT(DigitOffset(result, i) == DigitOffset(modes, i));
    }
    // Fewest digits: neither trivial ones nor a linear pair is left.
    for (std::size_t k = 0; k < result.size(); ++k) {
      RC_ASSERT(result[k].extent > 1);
      if (k == 0) continue;
      RC_ASSERT(result[k].stride !=
                result[k - 1].extent * result[k - 1].stride);
    }
  }));
}

TEST(ModeTest, CoalesceExamples) {
  EXPECT_EQ(Coalesce({{2, 1}, {3, 2}, {4, 6}}), (DimModes{{24, 1}}));
  EXPECT_EQ(Coalesce({{1, 9}, {6, 1}, {1, 0}, {4, 8}}),
            (DimModes{{6, 1}, {4, 8}}));
  EXPECT_EQ(Coalesce({{2, 0}, {3, 0}}), (DimModes{{6, 0}}));
  EXPECT_EQ(Coalesce({{1, 5}}), DimModes{});
  // 2 * 2^62 does not fit, so nothing can continue there.
  const int64_t large = int64_t{1} << 62;
  EXPECT_EQ(Coalesce({{2, large}, {2, 0}}), (DimModes{{2, large}, {2, 0}}));
}

}  // namespace
}  // namespace weft::layout
