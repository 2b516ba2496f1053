// The reference transport: peers inside one process. Every transfer is a
// memcpy done when the peer is polled, so it is as lazy as a wire and as plain
// as an oracle.
#ifndef WEFT_TRANSPORT_INPROC_INPROC_TRANSPORT_H_
#define WEFT_TRANSPORT_INPROC_INPROC_TRANSPORT_H_

#include <memory>

#include "weft/transport/transport.h"

namespace weft::transport {

// Regions of kShared buffers are mapped, all others reached by posted access.
// Destroying the transport is the death of the peer that it was.
std::unique_ptr<Transport> MakeInprocTransport();

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_INPROC_INPROC_TRANSPORT_H_
