// Run by ctest several times: with UCX's own choice of transports, over tcp
// alone, over shared memory, and with a newer UCX (CMakeLists.txt).
#include "weft/transport/testing/conformance.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Ucx, TransportConformance,
                         testing::Values(ConformanceCase{
                             .name = "ucx",
                             .make =
                                 [] {
                                   return MakeUcxTransport(
                                       {.import_timeout =
                                            std::chrono::seconds(3)});
                                 },
                             .process_name = "ucx",
                             .refuses_get_after_free = false}));

}  // namespace
}  // namespace weft::transport
