#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/testing/conformance.h"

namespace weft::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Shm, TransportConformance,
                         testing::Values(ConformanceCase{
                             .name = "shm",
                             .make =
                                 [] {
                                   return MakeShmTransport(
                                       {.import_timeout =
                                            std::chrono::seconds(3)});
                                 },
                             .process_name = "shm"}));

}  // namespace
}  // namespace weft::transport
