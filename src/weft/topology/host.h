// Which host, and which view of it, a process lives in.
#ifndef WEFT_TOPOLOGY_HOST_H_
#define WEFT_TOPOLOGY_HOST_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weft::topology {

// Two processes with equal ids run under one kernel and see each other's pids,
// System V segments and abstract sockets: they can pass file descriptors and
// map each other's memory. Containers of one host that share none of this have
// different ids, as they should.
struct HostId {
  std::string boot_id;  // of the kernel; changes at every boot
  // Inode numbers of the namespaces.
  uint64_t pid_namespace = 0;
  uint64_t ipc_namespace = 0;
  uint64_t network_namespace = 0;

  friend bool operator==(const HostId&, const HostId&) = default;
  // "<boot id>/<pid>/<ipc>/<net>". Equal ids give equal strings.
  std::string ToString() const;
};

// Of this process, from `proc_root` ("/proc" outside tests). kNotFound with
// the file that is missing, kDataLoss with the file that reads otherwise.
absl::StatusOr<HostId> ReadHostId(std::string_view proc_root);

}  // namespace weft::topology

#endif  // WEFT_TOPOLOGY_HOST_H_
