// Programs on a device: the suite of all kernels, programs of many parts, what
// is too large for 32 bits, and stopping. Skipped where no device is.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "weft/convert/cuda/program.h"
#include "weft/convert/cuda/testing/device_runner.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::cuda {
namespace {

testing::Runner& TheRunner() {
  static testing::Runner* const runner = [] {
    auto made = testing::MakeDeviceRunner(0, 0);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? made->release() : nullptr;
  }();
  return *runner;
}

// The only reason to skip.
#define WEFT_SKIP_WITHOUT_DEVICE()                             \
  if (absl::Status status = DeviceAvailable(); !status.ok()) { \
    GTEST_SKIP() << status.message();                          \
  }

class DeviceKernelTest : public ::testing::TestWithParam<CopyWay> {
 protected:
  void SetUp() override {
    WEFT_SKIP_WITHOUT_DEVICE();
    kernels_ = std::make_unique<testing::RunnerKernels>(
        TheRunner(), ProgramOptions{GetParam()});
  }
  std::unique_ptr<testing::RunnerKernels> kernels_;
};

TEST_P(DeviceKernelTest, RandomCopies) {
  convert::testing::CheckRandomCopies(*kernels_);
}
TEST_P(DeviceKernelTest, LargeCopies) {
  convert::testing::CheckLargeCopies(*kernels_);
}

INSTANTIATE_TEST_SUITE_P(Ways, DeviceKernelTest,
                         ::testing::Values(CopyWay::kEngines,
                                           CopyWay::kKernel));

class DeviceValueTest : public DeviceKernelTest {};

TEST_P(DeviceValueTest, ContiguousCopies) {
  convert::testing::CheckContiguousCopies(*kernels_);
}
TEST_P(DeviceValueTest, CastsOfHalves) {
  convert::testing::CheckCastsOfHalves(*kernels_);
}
TEST_P(DeviceValueTest, CastsOfFloats) {
  convert::testing::CheckCastsOfFloats(*kernels_);
}
TEST_P(DeviceValueTest, Transforms) {
  convert::testing::CheckTransforms(*kernels_);
}
TEST_P(DeviceValueTest, QuantisedHalves) {
  convert::testing::CheckQuantisedHalves(*kernels_);
}
TEST_P(DeviceValueTest, QuantisedFloats) {
  convert::testing::CheckQuantisedFloats(*kernels_);
}
TEST_P(DeviceValueTest, QuantisedShapes) {
  convert::testing::CheckQuantisedShapes(*kernels_);
}
TEST_P(DeviceValueTest, QuantisedSpecials) {
  convert::testing::CheckQuantisedSpecials(*kernels_);
}
TEST_P(DeviceValueTest, QuantisedGolden) {
  convert::testing::CheckQuantisedGolden(*kernels_);
}
TEST_P(DeviceValueTest, QuantisedEdges) {
  convert::testing::CheckQuantisedEdges(*kernels_);
}
TEST_P(DeviceValueTest, DigestRows) {
  convert::testing::CheckDigestRows(*kernels_);
}
TEST_P(DeviceValueTest, DigestBands) {
  convert::testing::CheckDigestBands(*kernels_);
}
TEST_P(DeviceValueTest, DigestAdds) {
  convert::testing::CheckDigestAdds(*kernels_);
}
TEST_P(DeviceValueTest, DigestNotices) {
  convert::testing::CheckDigestNotices(*kernels_, /*thinning=*/61);
}

INSTANTIATE_TEST_SUITE_P(Kernel, DeviceValueTest,
                         ::testing::Values(CopyWay::kKernel));

class DeviceProgramTest : public ::testing::Test {
 protected:
  void SetUp() override { WEFT_SKIP_WITHOUT_DEVICE(); }
};

TEST_F(DeviceProgramTest, RandomPrograms) {
  testing::CheckRandomPrograms(TheRunner(), 100);
}
TEST_F(DeviceProgramTest, Pieces) { testing::CheckPieces(TheRunner()); }
TEST_F(DeviceProgramTest, WideTranspositions) {
  testing::CheckWideTranspositions(TheRunner());
}
TEST_F(DeviceProgramTest, DigestedCopies) {
  testing::CheckDigestedCopies(TheRunner());
}
TEST_F(DeviceProgramTest, DigestedQuantisation) {
  testing::CheckDigestedQuantisation(TheRunner());
}
TEST_F(DeviceProgramTest, StridedDigests) {
  testing::CheckStridedDigests(TheRunner());
}
TEST_F(DeviceProgramTest, TransposedScales) {
  testing::CheckTransposedScales(TheRunner());
}

TEST_F(DeviceProgramTest, RandomProgramsOverPeerMemory) {
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  if (devices < 2) GTEST_SKIP() << "one CUDA device only";
  auto runner = testing::MakeDeviceRunner(1, 0);
  ASSERT_TRUE(runner.ok()) << runner.status();
  testing::CheckRandomPrograms(**runner, 30);
  testing::CheckPieces(**runner);
  testing::CheckWideTranspositions(**runner);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
}

struct Freed {
  void operator()(std::byte* memory) const { cudaFree(memory); }
};
using DeviceMemory = std::unique_ptr<std::byte, Freed>;

DeviceMemory Allocate(int64_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<size_t>(bytes)) != cudaSuccess) {
    return nullptr;
  }
  return DeviceMemory(static_cast<std::byte*>(memory));
}

absl::Status RunOnce(Program& program, const DigestConstants* constants) {
  if (absl::Status status = program.Launch(nullptr, {0, constants, true});
      !status.ok()) {
    return status;
  }
  return cudaDeviceSynchronize() == cudaSuccess
             ? absl::OkStatus()
             : absl::InternalError("the run failed");
}

// A thread's context, and so the GPU that a framework has made current in it,
// stays what it was; where none was, none is.
TEST_F(DeviceProgramTest, LeavesTheThreadsContextAlone) {
  using GetCurrent = CUresult (*)(CUcontext*);
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  ASSERT_EQ(cudaGetDriverEntryPointByVersion("cuCtxGetCurrent", &found, 12000,
                                             cudaEnableDefault, &result),
            cudaSuccess);
  const auto get_current = reinterpret_cast<GetCurrent>(found);
  const DeviceMemory memory = Allocate(4096);
  ASSERT_TRUE(memory != nullptr);
  ProgramSpec spec;
  StridedCopy copy;
  copy.src = memory.get();
  copy.dst = memory.get() + 2048;
  copy.modes = {{2048, 1, 1}};
  copy.conversion = {tensor::DType::kU8, tensor::DType::kU8};
  spec.copies.push_back({copy, {}});
  std::thread([&] {
    CUcontext current = nullptr;
    ASSERT_EQ(get_current(&current), CUDA_SUCCESS);
    ASSERT_EQ(current, nullptr);
    {
      auto program = BuildProgram(0, spec, {CopyWay::kKernel});
      ASSERT_TRUE(program.ok()) << program.status();
      ASSERT_TRUE((*program)->Launch(nullptr, {}).ok());
    }
    ASSERT_EQ(get_current(&current), CUDA_SUCCESS);
    EXPECT_EQ(current, nullptr);
  }).join();
}

// Rows whose offsets need 33 bits and more, of a matrix of 2^31 + 2^25
// elements: marked ones are found where they belong.
TEST_F(DeviceProgramTest, MoreElementsThan32BitsCount) {
  constexpr int64_t kCols = 4096;
  constexpr int64_t kRows = (int64_t{1} << 19) + (int64_t{1} << 13) + 3;
  constexpr int64_t kBytes = kRows * kCols * 2;
  ASSERT_GT(kRows * kCols, int64_t{1} << 31);
  const DeviceMemory src = Allocate(kBytes);
  const DeviceMemory dst = Allocate(kBytes);
  const DeviceMemory codes = Allocate(kRows * kCols);
  const DeviceMemory scales = Allocate((kRows / 128 + 1) * (kCols / 128) * 4);
  ASSERT_TRUE(src && dst && codes && scales) << "device memory";
  ASSERT_EQ(cudaMemset(src.get(), 0, kBytes), cudaSuccess);
  ASSERT_EQ(cudaMemset(dst.get(), 0xff, kBytes), cudaSuccess);
  constexpr int64_t kMarkedRows[] = {0, 5, kRows / 2, kRows - 200, kRows - 1};
  constexpr uint16_t kOne = 0x3f80;  // 1.0 in bf16
  for (const int64_t row : kMarkedRows) {
    ASSERT_EQ(cudaMemcpy(src.get() + row * kCols * 2 + 2 * (row % 97), &kOne, 2,
                         cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  const DigestConstants constants = DigestConstants::FromSeed(3);
  ProgramSpec spec;
  StridedCopy copy;
  copy.src = src.get();
  copy.dst = dst.get();
  copy.modes = {{kRows, kCols * 2, kCols * 2}, {kCols, 2, 2}};
  copy.conversion = {tensor::DType::kBF16, tensor::DType::kF16};
  spec.copies.push_back({copy, {}});
  Quantisation work;
  work.block.src = src.get();
  work.block.src_stride_bytes = kCols * 2;
  work.block.rows = kRows;
  work.block.cols = kCols;
  work.block.dst = codes.get();
  work.block.dst_stride_bytes = kCols;
  work.block.scales = scales.get();
  work.block.scales_stride_bytes = kCols / 128 * 4;
  spec.quantisations.push_back(work);
  constexpr int64_t kTilesAcross = kCols / 64;
  spec.num_values = (kRows + 63) / 64 * kTilesAcross;
  spec.digests.push_back(
      {src.get(), 2, kRows, kCols, kCols * 2, 2, {0, 0, 0, kTilesAcross}});
  auto program = BuildProgram(0, spec, {});
  ASSERT_TRUE(program.ok()) << program.status();
  ASSERT_TRUE(RunOnce(**program, &constants).ok());
  std::vector<uint16_t> row_values(kCols);
  std::vector<uint8_t> row_codes(kCols);
  std::vector<DigestValue> expected(static_cast<size_t>(spec.num_values));
  for (const int64_t row : kMarkedRows) {
    ASSERT_EQ(cudaMemcpy(row_values.data(), dst.get() + row * kCols * 2,
                         kCols * 2, cudaMemcpyDeviceToHost),
              cudaSuccess);
    ASSERT_EQ(cudaMemcpy(row_codes.data(), codes.get() + row * kCols, kCols,
                         cudaMemcpyDeviceToHost),
              cudaSuccess);
    const int64_t marked = row % 97;
    for (int64_t col = 0; col < kCols; ++col) {
      ASSERT_EQ(row_values[static_cast<size_t>(col)],
                col == marked ? 0x3c00 : 0)
          << row << ", " << col;
      // The block's largest is its only one: 448.
      ASSERT_EQ(row_codes[static_cast<size_t>(col)], col == marked ? 0x7e : 0)
          << row << ", " << col;
    }
    ReferenceKernels().DigestRow(
        constants, reinterpret_cast<const std::byte*>(&kOne), 1, 2,
        static_cast<int>(row % 64), static_cast<int>(marked % 64),
        expected[static_cast<size_t>(row / 64 * kTilesAcross + marked / 64)]);
  }
  const auto values = (*program)->digest_values();
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(ToHex(values[i]), ToHex(expected[i])) << i;
  }
}

// What lies under a program changes between its launches.
TEST_F(DeviceProgramTest, LaunchesAgainAndAfterAStop) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  const DeviceMemory src = Allocate(kBytes);
  const DeviceMemory dst = Allocate(kBytes);
  ASSERT_TRUE(src && dst) << "device memory";
  ProgramSpec spec;
  StridedCopy copy;
  copy.src = src.get();
  copy.dst = dst.get() + kBytes;
  copy.modes = {{kBytes / 32, 32, -32}, {32, 1, 1}};
  copy.dst -= 32;
  copy.conversion = {tensor::DType::kU8, tensor::DType::kU8};
  spec.copies.push_back({copy, {}});
  auto program = BuildProgram(0, spec, {CopyWay::kKernel});
  ASSERT_TRUE(program.ok()) << program.status();
  std::vector<unsigned char> got(kBytes);
  for (const int round : {1, 2, 3, 4}) {
    ASSERT_EQ(cudaMemset(src.get(), round, kBytes), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    if (round == 3) {
      // Wherever the stop comes, the stream drains and the next run is whole.
      ASSERT_TRUE((*program)->Launch(nullptr, {1, nullptr, true}).ok());
      ASSERT_TRUE((*program)->Abort().ok());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      continue;
    }
    ASSERT_TRUE(RunOnce(**program, nullptr).ok());
    ASSERT_EQ(cudaMemcpy(got.data(), dst.get(), kBytes, cudaMemcpyDeviceToHost),
              cudaSuccess);
    for (const unsigned char byte : got) ASSERT_EQ(byte, round);
  }
}

}  // namespace
}  // namespace weft::convert::cuda
