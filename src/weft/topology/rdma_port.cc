#include "weft/topology/rdma_port.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace weft::topology {
namespace {

namespace fs = std::filesystem;

// Entries of a folder; none when it cannot be read.
std::vector<fs::path> ListFolder(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  while (!error && entry != fs::directory_iterator()) {
    entries.push_back(entry->path());
    entry.increment(error);
  }
  return entries;
}

RdmaPort ReadPort(const fs::path& folder, std::string device, int64_t port) {
  RdmaPort result{.device = std::move(device), .port = port};
  std::ifstream file(folder / "state");
  std::string line;
  if (std::getline(file, line)) {
    result.state_text = std::string(absl::StripAsciiWhitespace(line));
  }
  // The kernel prints "<number>: <word>"; 4 is ACTIVE in every version.
  if (result.state_text == "4: ACTIVE") result.state = PortState::kActive;
  return result;
}

}  // namespace

std::vector<RdmaPort> ListRdmaPorts(std::string_view sysfs_root) {
  std::vector<RdmaPort> ports;
  const fs::path root = fs::path(sysfs_root) / "class" / "infiniband";
  for (const fs::path& device : ListFolder(root)) {
    for (const fs::path& folder : ListFolder(device / "ports")) {
      int64_t port = 0;
      if (!absl::SimpleAtoi(folder.filename().string(), &port)) continue;
      ports.push_back(ReadPort(folder, device.filename().string(), port));
    }
  }
  std::sort(ports.begin(), ports.end(),
            [](const RdmaPort& a, const RdmaPort& b) {
              return std::tie(a.device, a.port) < std::tie(b.device, b.port);
            });
  return ports;
}

}  // namespace weft::topology
