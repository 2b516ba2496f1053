// The fixtures of session tests, with their weights on fake GPUs: trainers on
// the first, engines on the second.
#ifndef WEFT_SESSION_TESTING_FAKE_GPUS_H_
#define WEFT_SESSION_TESTING_FAKE_GPUS_H_

#include <memory>
#include <string>

#include "weft/convert/testing/host_program.h"
#include "weft/execute/device_options.h"
#include "weft/memory/testing/fake_device.h"
#include "weft/session/memory_area.h"
#include "weft/transport/cuda/cuda_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::session::testing {

inline constexpr int kTrainerGpu = 0;
inline constexpr int kEngineGpu = 1;

inline memory::FakeDeviceDriver& FakeGpus() {
  static auto* const driver = new memory::FakeDeviceDriver(2);
  return *driver;
}

inline execute::DeviceOptions FakeGpuOptions() {
  return {.driver = &FakeGpus(), .build = convert::testing::BuildHostProgram};
}

// The transports of tests on fake GPUs: mapped; read by UCX as it reads real
// ones over NVLink; and by UCX through the host.
inline bool OnFakeGpus(const std::string& transport) {
  return transport == "cuda" || transport == "gpu_ucx" ||
         transport == "gpu_host";
}

// Shared memory for `placement`; under such a transport the fake GPU `device`
// says that it is its own.
inline OwnedRankMemory AllocateUnder(const std::string& transport,
                                     const manifest::Placement& placement,
                                     int device) {
  OwnedRankMemory owned = *AllocateFor(placement, memory::MemoryKind::kShared);
  if (OnFakeGpus(transport)) {
    FakeGpus().Adopt(device, *owned.buffer);
    owned.memory.areas[0].buffer = nullptr;
    owned.memory.areas[0].device = device;
  }
  return owned;
}

inline std::unique_ptr<transport::Transport> MakeFakeGpuTransport(
    int device, const std::string& name = "cuda") {
  if (name != "cuda") {
    return *transport::MakeUcxTransport({.emulated_rma = name == "gpu_ucx",
                                         .driver = &FakeGpus(),
                                         .device = device});
  }
  return *transport::MakeCudaTransport(
      {.driver = &FakeGpus(), .device = device});
}

}  // namespace weft::session::testing

#endif  // WEFT_SESSION_TESTING_FAKE_GPUS_H_
