// Runs with the real NIXL of PyPI, in processes that hold no other UCX
// (docs/decisions/0018-nixl.md), and skips where there is none.
#include <chrono>

#include "weft/transport/nixl/nixl_transport.h"
#include "weft/transport/testing/conformance.h"

namespace weft::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Nixl, TransportConformance,
                         testing::Values(ConformanceCase{
                             .name = "nixl",
                             .make =
                                 [] {
                                   return MakeNixlTransport(
                                       {.import_timeout =
                                            std::chrono::seconds(3)});
                                 },
                             .process_name = "nixl",
                             .unavailable = [] { return FindNixl().status(); },
                             .refuses_get_after_free = false}));

}  // namespace
}  // namespace weft::transport
