#include "weft/topology/host.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::topology {
namespace {

// The inode number in a link such as "pid:[4026531836]".
absl::StatusOr<uint64_t> ReadNamespace(const std::string& proc_root,
                                       const std::string& kind) {
  const std::string path = absl::StrCat(proc_root, "/self/ns/", kind);
  std::error_code error;
  const std::string link = std::filesystem::read_symlink(path, error).string();
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("cannot read the link ", path, ": ", error.message()));
  }
  const std::string prefix = absl::StrCat(kind, ":[");
  uint64_t inode = 0;
  if (!absl::StartsWith(link, prefix) || !absl::EndsWith(link, "]") ||
      !absl::SimpleAtoi(
          link.substr(prefix.size(), link.size() - prefix.size() - 1),
          &inode)) {
    return absl::DataLossError(absl::StrCat(
        path, " points to \"", link, "\", not to \"", prefix, "<number>]\""));
  }
  return inode;
}

}  // namespace

std::string HostId::ToString() const {
  return absl::StrCat(boot_id, "/", pid_namespace, "/", ipc_namespace, "/",
                      network_namespace);
}

absl::StatusOr<HostId> ReadHostId(std::string_view proc_root) {
  const std::string root(proc_root);
  const std::string path = absl::StrCat(root, "/sys/kernel/random/boot_id");
  std::ifstream file(path);
  std::string line;
  if (!file || !std::getline(file, line)) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path));
  }
  HostId id;
  id.boot_id = std::string(absl::StripAsciiWhitespace(line));
  if (id.boot_id.empty()) {
    return absl::DataLossError(absl::StrCat(path, " holds no boot id"));
  }
  WEFT_ASSIGN_OR_RETURN(id.pid_namespace, ReadNamespace(root, "pid"));
  WEFT_ASSIGN_OR_RETURN(id.ipc_namespace, ReadNamespace(root, "ipc"));
  WEFT_ASSIGN_OR_RETURN(id.network_namespace, ReadNamespace(root, "net"));
  return id;
}

}  // namespace weft::topology
