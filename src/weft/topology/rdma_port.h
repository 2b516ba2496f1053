// RDMA ports of this host, as the kernel lists them.
#ifndef WEFT_TOPOLOGY_RDMA_PORT_H_
#define WEFT_TOPOLOGY_RDMA_PORT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::topology {

enum class PortState {
  kActive,
  kDown,  // any state but ACTIVE
};

struct RdmaPort {
  std::string device;  // "mlx5_0"
  int64_t port = 0;    // from 1
  PortState state = PortState::kDown;
  std::string state_text = {};  // the kernel's words: "4: ACTIVE"; may be empty
  friend bool operator==(const RdmaPort&, const RdmaPort&) = default;
};

// Reads <sysfs_root>/class/infiniband ("/sys" outside tests), sorted by device
// and port. Empty on a host without RDMA devices. A port whose state cannot be
// read is listed as kDown.
std::vector<RdmaPort> ListRdmaPorts(std::string_view sysfs_root);

}  // namespace weft::topology

#endif  // WEFT_TOPOLOGY_RDMA_PORT_H_
