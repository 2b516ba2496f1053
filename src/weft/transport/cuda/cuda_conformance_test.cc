#include "weft/memory/testing/fake_device.h"
#include "weft/transport/cuda/cuda_transport.h"
#include "weft/transport/testing/conformance.h"

namespace weft::transport {
namespace {

memory::FakeDeviceDriver& Gpus() {
  static auto* driver = new memory::FakeDeviceDriver(2);
  return *driver;
}

INSTANTIATE_TEST_SUITE_P(Cuda, TransportConformance,
                         testing::Values(ConformanceCase{
                             .name = "cuda", .make = [] {
                               return MakeCudaTransport({.driver = &Gpus()});
                             }}));

}  // namespace
}  // namespace weft::transport
