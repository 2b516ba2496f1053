#include "one_ucx.h"

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "weft/transport/nixl/nixl_transport.h"

namespace weft::apps {
namespace {

namespace fs = std::filesystem;

// The folder of links that this process was started with.
constexpr char kLinks[] = "WEFT_NIXL_LINKS";

bool AsksForNixl(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--transport=nixl") return true;
    if (word == "--transport" && i + 1 < argc &&
        std::string_view(argv[i + 1]) == "nixl") {
      return true;
    }
  }
  return false;
}

void RemoveFolder(const std::string& folder) {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

}  // namespace

absl::Status KeepOneUcx(int argc, char** argv) {
  if (const char* links = getenv(kLinks); links != nullptr) {
    // What they led to is loaded. A second start would change nothing.
    RemoveFolder(links);
    unsetenv(kLinks);
    return absl::OkStatus();
  }
  if (!AsksForNixl(argc, argv)) return absl::OkStatus();
  std::string folder = (fs::temp_directory_path() / "weft-ucx-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot make the folder ", folder, ": ", strerror(errno)));
  }
  const auto environment = transport::NixlEnvironment(folder);
  if (!environment.ok() || environment->empty()) {
    RemoveFolder(folder);
    return absl::OkStatus();
  }
  for (const auto& [name, value] : *environment) {
    setenv(name.c_str(), value.c_str(), 1);
  }
  setenv(kLinks, folder.c_str(), 1);
  execv("/proc/self/exe", argv);
  const int error = errno;
  RemoveFolder(folder);
  return absl::UnavailableError(
      absl::StrCat("cannot start again for nixl: ", strerror(error)));
}

}  // namespace weft::apps
