// The conformance suite on memory of GPUs over the real NIXL: of fake ones,
// whose memory NIXL takes for the host's, and of real ones.
#include <chrono>
#include <utility>

#include "weft/memory/cuda/cuda_driver.h"
#include "weft/memory/testing/fake_device.h"
#include "weft/transport/nixl/nixl_transport.h"
#include "weft/transport/testing/conformance.h"

namespace weft::transport {
namespace {

memory::DeviceDriver* FakeGpus() {
  static auto* const driver = new memory::FakeDeviceDriver(2);
  return driver;
}

memory::DeviceDriver* RealGpus() {
  const auto driver = memory::CudaDriver();
  return driver.ok() ? *driver : nullptr;
}

// The owner's GPU is the first one, the reader's the last.
ConformanceCase Case(std::string name, bool fake, bool region_on_gpu,
                     bool local_on_gpu) {
  memory::DeviceDriver* (*const gpus)() = fake ? FakeGpus : RealGpus;
  ConformanceCase made;
  made.name = std::move(name);
  made.make = [gpus, fake] {
    return MakeNixlTransport({.import_timeout = std::chrono::seconds(3),
                              .driver = gpus(),
                              .device = gpus()->num_devices() - 1,
                              .fake_gpus = fake});
  };
  made.places = [gpus, region_on_gpu, local_on_gpu] {
    const int last = gpus()->num_devices() - 1;
    return CasePlaces{
        .driver = gpus(),
        .region_device = region_on_gpu ? 0 : memory::kHostMemory,
        .local_device = local_on_gpu ? last : memory::kHostMemory};
  };
  made.process_name = "nixl";
  if (region_on_gpu) made.process_memory = fake ? "fake" : "cuda";
  made.unavailable = [fake] {
    absl::Status status = FindNixl().status();
    if (!fake) status.Update(memory::CudaDriver().status());
    return status;
  };
  made.refuses_get_after_free = false;
  return made;
}

std::string NameOf(const testing::TestParamInfo<ConformanceCase>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    FakeGpus, TransportConformance,
    testing::Values(Case("device_to_device", true, true, true),
                    Case("device_to_host", true, true, false),
                    Case("host_to_device", true, false, true)),
    NameOf);
INSTANTIATE_TEST_SUITE_P(
    Gpus, TransportConformance,
    testing::Values(Case("device_to_device", false, true, true),
                    Case("device_to_host", false, true, false),
                    Case("host_to_device", false, false, true)),
    NameOf);

}  // namespace
}  // namespace weft::transport
