#include "weft/transport/inproc/inproc_transport.h"
#include "weft/transport/testing/conformance.h"

namespace weft::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Inproc, TransportConformance,
                         testing::Values(ConformanceCase{
                             .name = "inproc",
                             .make = [] { return MakeInprocTransport(); },
                             .process_name = ""}));

}  // namespace
}  // namespace weft::transport
