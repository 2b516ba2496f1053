// Posted access through NIXL, the transfer library of Dynamo and of engines'
// caches. It is not linked: its C library is loaded at run time from the
// operator's installation or from the PyPI package nixl-cu13
// (docs/decisions/0018-nixl.md).
//
// Get and Put are NIXL's own one-sided reads and writes. Their requests are
// prepared once and posted again when the same pieces move again. Gather: the
// owner packs into a registered ring that the reader reads.
//
// Memory of GPUs moves from GPU to GPU; where one end of an operation is a
// GPU's and the other the host's, a buffer of this process that is of the far
// end's kind lies between.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_TRANSPORT_H_
#define WEFT_TRANSPORT_NIXL_NIXL_TRANSPORT_H_

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/memory/device.h"
#include "weft/transport/transport.h"

namespace weft::transport {

struct NixlOptions {
  // libnixl_capi.so; empty = WEFT_NIXL_LIBRARY, then the loader's path, then
  // the Python environment that is active (VIRTUAL_ENV, CONDA_PREFIX, the
  // python3 of PATH). For tests and for operators with several.
  std::string library = {};
  // How long Import waits for the owner's answer.
  std::chrono::nanoseconds import_timeout = std::chrono::seconds(10);
  // Tells on which GPU memory lies; null = all of it is the host's.
  // Outlives the transport.
  memory::DeviceDriver* driver = nullptr;
  // This process's GPU, into which memory of peers' GPUs is read.
  int device = memory::kHostMemory;
  // Tests: the driver's GPUs are fake, so that to NIXL their memory is the
  // host's.
  bool fake_gpus = false;
};

// kNotFound when there is no NIXL: the message says what to install.
// kFailedPrecondition for a NIXL that Weft was not tested with, and when the
// process holds another UCX than the one that NIXL brings.
absl::StatusOr<std::unique_ptr<Transport>> MakeNixlTransport(
    const NixlOptions& options);

// "nixl 1.5.1 (/path/libnixl_capi.so)" without starting it, or why not.
absl::StatusOr<std::string> FindNixl(const std::string& library = {});

// A process that has loaded another UCX than the one of NIXL must be started
// again with NIXL's in its place: the variables that do it, none when nothing
// is in the way. `links` is an empty folder that must exist until then.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>>
NixlEnvironment(const std::string& links, const std::string& library = {});

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_NIXL_NIXL_TRANSPORT_H_
