// The conformance suite on memory of GPUs: of fake ones, where UCX takes their
// memory for the host's or does not reach it, and of real ones (label gpu).
#include "weft/memory/cuda/cuda_driver.h"
#include "weft/memory/testing/fake_device.h"
#include "weft/transport/testing/conformance.h"
#include "weft/transport/testing/pattern.h"
#include "weft/transport/testing/test_peer.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::transport {
namespace {

constexpr int kOwners = 0;
constexpr int kHost = memory::kHostMemory;

memory::DeviceDriver* FakeGpus() {
  static auto* const driver = new memory::FakeDeviceDriver(2);
  return driver;
}

memory::DeviceDriver* RealGpus() {
  const auto driver = memory::CudaDriver();
  return driver.ok() ? *driver : nullptr;
}

// The reader's GPU is the last one.
ConformanceCase Case(std::string name, memory::DeviceDriver* (*gpus)(),
                     bool region_on_gpu, bool local_on_gpu) {
  ConformanceCase made;
  made.name = std::move(name);
  made.make = [gpus] {
    return MakeUcxTransport({.import_timeout = std::chrono::seconds(3),
                             .driver = gpus(),
                             .device = gpus()->num_devices() - 1});
  };
  made.places = [gpus, region_on_gpu, local_on_gpu] {
    return CasePlaces{
        .driver = gpus(),
        .region_device = region_on_gpu ? kOwners : kHost,
        .local_device = local_on_gpu ? gpus()->num_devices() - 1 : kHost};
  };
  made.process_name = "ucx";
  made.refuses_get_after_free = false;
  return made;
}

// A UCX with CUDA would take fake memory for a GPU's.
absl::Status OnlyRealOnes() {
  if (RealGpus() == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError("there are real GPUs here");
}

ConformanceCase Fake(std::string name, bool region_on_gpu, bool local_on_gpu) {
  ConformanceCase made =
      Case(std::move(name), FakeGpus, region_on_gpu, local_on_gpu);
  if (region_on_gpu) made.process_memory = "fake";
  made.unavailable = OnlyRealOnes;
  return made;
}

// UCX reads and writes fake memory by itself, as it does real memory over
// NVLink. It emulates that, which an owner does not always survive.
ConformanceCase OneSided() {
  ConformanceCase made = Case("one_sided", FakeGpus, true, true);
  made.make = [] {
    return MakeUcxTransport({.import_timeout = std::chrono::seconds(3),
                             .emulated_rma = true,
                             .driver = FakeGpus(),
                             .device = 1});
  };
  made.process_name = "";
  made.outlives_readers = false;
  made.unavailable = OnlyRealOnes;
  return made;
}

ConformanceCase Real(std::string name, bool region_on_gpu, bool local_on_gpu) {
  ConformanceCase made =
      Case(std::move(name), RealGpus, region_on_gpu, local_on_gpu);
  made.unavailable = [] { return memory::CudaDriver().status(); };
  if (region_on_gpu) made.process_memory = "cuda";
  return made;
}

std::string NameOf(const testing::TestParamInfo<ConformanceCase>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(FakeGpus, TransportConformance,
                         testing::Values(Fake("device_to_device", true, true),
                                         Fake("device_to_host", true, false),
                                         Fake("host_to_device", false, true),
                                         OneSided()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Gpus, TransportConformance,
                         testing::Values(Real("device_to_device", true, true),
                                         Real("device_to_host", true, false),
                                         Real("host_to_device", false, true)),
                         NameOf);

// Which way was taken: without CUDA in UCX the host's, with the reason and the
// remedy; with it, and two GPUs that reach each other, UCX's own.
TEST(Gpus, AnotherProcessIsReadByUcxWhereItHasCuda) {
  if (RealGpus() == nullptr) GTEST_SKIP() << memory::CudaDriver().status();
  const auto process = TestPeer::Start("ucx", "cuda", int64_t{64} << 20, 3);
  ASSERT_TRUE(process.ok()) << process.status();
  const auto transport = *MakeUcxTransport(
      {.driver = RealGpus(), .device = RealGpus()->num_devices() - 1});
  const auto peer = *transport->Connect((*process)->address(), "owner",
                                        base::Deadline::Infinite());
  const auto region = *peer->Import((*process)->key());
  EXPECT_TRUE(region->on_peer_device());
  if (transport->description().find("through the host") != std::string::npos) {
    EXPECT_NE(region->through_host().find("libucx-cu13"), std::string::npos);
    return;
  }
  // Between processes on one H100 UCX 1.22 finds no wire, and says so.
  if (RealGpus()->num_devices() < 2) GTEST_SKIP() << "there is one GPU alone";
  EXPECT_EQ(region->through_host(), "");
}

TEST(FakeGpus, AreReadThroughTheHostAndItIsSaid) {
  if (!OnlyRealOnes().ok()) GTEST_SKIP() << OnlyRealOnes();
  const auto process = TestPeer::Start("ucx", "fake", 1 << 20, 3);
  ASSERT_TRUE(process.ok()) << process.status();
  const auto transport = *MakeUcxTransport({.driver = FakeGpus(), .device = 1});
  const auto peer = *transport->Connect((*process)->address(), "owner",
                                        base::Deadline::Infinite());
  const auto region = *peer->Import((*process)->key());
  EXPECT_TRUE(region->on_peer_device());
  EXPECT_NE(region->through_host().find("libucx-cu13"), std::string::npos)
      << region->through_host();
  EXPECT_NE(transport->description().find("through the host"),
            std::string::npos);
}

TEST(FakeGpus, AreReadByAProcessThatUsesNone) {
  if (!OnlyRealOnes().ok()) GTEST_SKIP() << OnlyRealOnes();
  constexpr int64_t kBytes = 1 << 20;
  const auto process = TestPeer::Start("ucx", "fake", kBytes, 3);
  ASSERT_TRUE(process.ok()) << process.status();
  const auto transport = *MakeUcxTransport({});
  const auto peer = *transport->Connect((*process)->address(), "owner",
                                        base::Deadline::Infinite());
  const auto region = *peer->Import((*process)->key());
  EXPECT_NE(region->through_host(), "");
  std::vector<std::byte> local(kBytes);
  EXPECT_EQ(GetNow(*peer, *region, 0, absl::MakeSpan(local)), absl::OkStatus());
  EXPECT_EQ(FindMismatch(local, 3), -1);
}

}  // namespace
}  // namespace weft::transport
