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
// What the loader has read when a program starts; its children need their own.
constexpr const char* kOfLoader[] = {"LD_LIBRARY_PATH", "LD_PRELOAD"};

std::string Saved(const char* name) {
  return absl::StrCat("WEFT_NIXL_SAVED_", name);
}

void SaveForChildren() {
  for (const char* name : kOfLoader) {
    if (const char* value = getenv(name); value != nullptr) {
      setenv(Saved(name).c_str(), value, 1);
    }
  }
}

void RestoreForChildren() {
  for (const char* name : kOfLoader) {
    const char* value = getenv(Saved(name).c_str());
    if (value != nullptr) {
      setenv(name, value, 1);
    } else {
      unsetenv(name);
    }
    unsetenv(Saved(name).c_str());
  }
}

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

// Only what was put there: the name comes from the environment.
void RemoveFolder(const fs::path& folder) {
  std::error_code ignored;
  for (const char* name : {"libucp.so.0", "libucs.so.0"}) {
    const fs::path link = folder / name;
    if (fs::is_symlink(link, ignored)) fs::remove(link, ignored);
  }
  fs::remove(folder, ignored);
}

}  // namespace

absl::Status KeepOneUcx(int argc, char** argv) {
  if (const char* links = getenv(kLinks); links != nullptr) {
    // What they led to is loaded. A second start would change nothing.
    RemoveFolder(links);
    unsetenv(kLinks);
    RestoreForChildren();
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
  SaveForChildren();
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
