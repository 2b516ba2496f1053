// What publishers and receivers of Python have in common: the catalog's
// client, transports by name, memory by address.
#ifndef WEFT_PYTHON_ENDPOINT_H_
#define WEFT_PYTHON_ENDPOINT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/base/after_seconds.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/execute/device_options.h"
#include "weft/session/memory_area.h"
#include "weft/transport/transport.h"

namespace weft::python {

using base::AfterSeconds;

absl::StatusOr<std::shared_ptr<catalog::CatalogStore>> ConnectCatalog(
    const std::string& address, base::Deadline deadline);

using Transports = std::vector<std::shared_ptr<transport::Transport>>;
// "auto" (cuda for memory of a GPU, shm, then ucx if this machine has it), or
// one of these. `device`: the GPU that holds the rank's memory.
absl::StatusOr<Transports> MakeTransports(const std::string& choice,
                                          int device);
// "" when UCX can be used, else why not.
std::string WhyNoUcx();

// Address and bytes of each stored tensor, in the order of the placement.
using Addresses = std::vector<std::pair<uint64_t, int64_t>>;
// Memory of a GPU is given as the allocations that hold it, each once.
absl::StatusOr<session::RankMemory> MemoryAt(const Addresses& addresses);

// Empty without a driver. `stream`: the framework's, or nothing for its
// default.
execute::DeviceOptions DeviceOptionsFor(std::optional<uint64_t> stream);

}  // namespace weft::python

#endif  // WEFT_PYTHON_ENDPOINT_H_
