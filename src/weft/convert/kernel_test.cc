// The conformance suite for the reference and for the cpu kernels on every
// instruction set that this machine has.
#include "weft/convert/kernel.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "weft/convert/cpu/targets.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert {
namespace {

constexpr char kReference[] = "reference";

class KernelTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != kReference) cpu::UseTarget(GetParam());
  }
  void TearDown() override { cpu::UseTarget(""); }
  const Kernels& kernels() const {
    return GetParam() == kReference ? ReferenceKernels() : CpuKernels();
  }
};

TEST_P(KernelTest, TargetIsTheOneAskedFor) {
  if (GetParam() == kReference) {
    EXPECT_EQ(kernels().name(), kReference);
  } else {
    EXPECT_EQ(kernels().name(), "cpu");
    EXPECT_EQ(cpu::ChosenTargetName(), GetParam());
  }
}

TEST_P(KernelTest, ContiguousCopies) {
  testing::CheckContiguousCopies(kernels());
}
TEST_P(KernelTest, RandomCopies) { testing::CheckRandomCopies(kernels()); }
TEST_P(KernelTest, LargeCopies) { testing::CheckLargeCopies(kernels()); }
TEST_P(KernelTest, CastsOfHalves) { testing::CheckCastsOfHalves(kernels()); }
TEST_P(KernelTest, CastsOfFloats) { testing::CheckCastsOfFloats(kernels()); }
TEST_P(KernelTest, CastsToExponents) {
  testing::CheckCastsToExponents(kernels());
}
TEST_P(KernelTest, Transforms) { testing::CheckTransforms(kernels()); }
TEST_P(KernelTest, QuantisedHalves) {
  testing::CheckQuantisedHalves(kernels());
}
TEST_P(KernelTest, QuantisedFloats) {
  testing::CheckQuantisedFloats(kernels());
}
TEST_P(KernelTest, QuantisedShapes) {
  testing::CheckQuantisedShapes(kernels());
}
TEST_P(KernelTest, QuantisedSpecials) {
  testing::CheckQuantisedSpecials(kernels());
}
TEST_P(KernelTest, QuantisedGolden) {
  testing::CheckQuantisedGolden(kernels());
}
TEST_P(KernelTest, QuantisedEdges) { testing::CheckQuantisedEdges(kernels()); }
TEST_P(KernelTest, Mxfp4) { testing::CheckMxfp4(kernels()); }
TEST_P(KernelTest, DigestRows) { testing::CheckDigestRows(kernels()); }
TEST_P(KernelTest, DigestBands) { testing::CheckDigestBands(kernels()); }
TEST_P(KernelTest, DigestAdds) { testing::CheckDigestAdds(kernels()); }
TEST_P(KernelTest, DigestNotices) { testing::CheckDigestNotices(kernels()); }

std::vector<std::string> AllKernels() {
  std::vector<std::string> names = cpu::SupportedTargetNames();
  names.push_back(kReference);
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, KernelTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::convert
