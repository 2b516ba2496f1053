// The lowering, by an interpreter of what it yields: the suite of all kernels,
// and programs of many parts.
#include <cstdint>
#include <memory>

#include "gtest/gtest.h"
#include "weft/convert/cuda/lower_internal.h"
#include "weft/convert/cuda/testing/runner.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::cuda {
namespace {

class LowerTest : public ::testing::TestWithParam<CopyWay> {
 protected:
  std::unique_ptr<testing::Runner> runner_ = testing::MakeInterpreter();
  testing::RunnerKernels kernels_{*runner_, {GetParam()}};
};

TEST_P(LowerTest, ContiguousCopies) {
  convert::testing::CheckContiguousCopies(kernels_);
}
TEST_P(LowerTest, RandomCopies) {
  convert::testing::CheckRandomCopies(kernels_);
}
TEST_P(LowerTest, LargeCopies) { convert::testing::CheckLargeCopies(kernels_); }
TEST_P(LowerTest, Transforms) { convert::testing::CheckTransforms(kernels_); }
TEST_P(LowerTest, QuantisedShapes) {
  convert::testing::CheckQuantisedShapes(kernels_);
}
TEST_P(LowerTest, QuantisedEdges) {
  convert::testing::CheckQuantisedEdges(kernels_);
}
TEST_P(LowerTest, DigestRows) { convert::testing::CheckDigestRows(kernels_); }
TEST_P(LowerTest, DigestBands) { convert::testing::CheckDigestBands(kernels_); }

INSTANTIATE_TEST_SUITE_P(Ways, LowerTest,
                         ::testing::Values(CopyWay::kByCost, CopyWay::kEngines,
                                           CopyWay::kKernel));

TEST(LoweredProgramTest, RandomPrograms) {
  testing::CheckRandomPrograms(*testing::MakeInterpreter(), 60);
}
TEST(LoweredProgramTest, DigestedCopies) {
  testing::CheckDigestedCopies(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, DigestedQuantisation) {
  testing::CheckDigestedQuantisation(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, StridedDigests) {
  testing::CheckStridedDigests(*testing::MakeInterpreter());
}
TEST(LoweredProgramTest, TransposedScales) {
  testing::CheckTransposedScales(*testing::MakeInterpreter());
}

}  // namespace
}  // namespace weft::convert::cuda
