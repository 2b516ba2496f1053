#include <dlfcn.h>
#include <glob.h>
#include <stdlib.h>

#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <unordered_map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "weft/base/status.h"
#include "weft/transport/nixl/nixl_library_internal.h"

namespace weft::transport::nixl {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "nixl_capi_";
constexpr char kHowToInstall[] =
    "install the PyPI package nixl-cu13 (pip install --no-deps nixl-cu13) in "
    "the active Python environment, or name the library in WEFT_NIXL_LIBRARY";

std::vector<std::string> Glob(const std::string& pattern) {
  glob_t found = {};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  globfree(&found);
  return paths;
}

std::string Real(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return error ? path : real.string();
}

// Prefixes of the Python installations that a user would mean.
std::vector<std::string> PythonPrefixes() {
  std::vector<std::string> prefixes;
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const char* value = getenv(name); value != nullptr && *value != 0) {
      prefixes.emplace_back(value);
    }
  }
  const char* path = getenv("PATH");
  for (const absl::string_view folder :
       absl::StrSplit(path == nullptr ? "" : path, ':', absl::SkipEmpty())) {
    const fs::path python = fs::path(std::string(folder)) / "python3";
    std::error_code error;
    // Not resolved: the python3 of a virtual environment is a link out of it.
    if (fs::exists(python, error)) {
      prefixes.push_back(python.parent_path().parent_path().string());
      break;
    }
  }
  return prefixes;
}

std::vector<std::string> InPythonPackages() {
  std::vector<std::string> found;
  for (const std::string& prefix : PythonPrefixes()) {
    for (const char* packages : {"site-packages", "dist-packages"}) {
      for (const std::string& path :
           Glob(absl::StrCat(prefix, "/lib/python3*/", packages,
                             "/.nixl_cu1[0-9].mesonpy.libs/libnixl_capi.so"))) {
        found.push_back(path);
      }
    }
  }
  return found;
}

// The file that holds a function of this process, or empty. Of the kernel, not
// of the loader, which knows the name that it was asked for: it may have been a
// link that is gone.
std::string LoadedFile(void* address) {
  if (address == nullptr) return "";
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    uint64_t begin = 0;
    uint64_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64, &begin, &end) != 2) {
      continue;
    }
    const auto wanted = reinterpret_cast<uint64_t>(address);
    if (wanted < begin || wanted >= end) continue;
    const size_t path = line.find('/');
    return path == std::string::npos ? "" : line.substr(path);
  }
  return "";
}

// The folder that holds the package: libnixl_capi.so lies one deeper.
fs::path SitePackages(const std::string& library) {
  return fs::path(Real(library)).parent_path().parent_path();
}

// Two UCX in one process bind to each other's symbols and crash (measured in
// docs/decisions/0018-nixl.md), so this is refused before anything is loaded.
absl::Status CheckOneUcx(const std::string& library) {
  const std::string bundled = BundledUcx(library);
  const std::string loaded = LoadedFile(dlsym(RTLD_DEFAULT, "ucp_get_version"));
  if (bundled.empty() || loaded.empty() || loaded == bundled) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "this process has loaded the ucx of ", loaded, ", and ", library,
      " brings its own, ", bundled,
      ": two do not live in one process; start it with the one of nixl "
      "(docs/decisions/0018-nixl.md says how)"));
}

absl::Status CheckVersion(const std::string& library,
                          const std::string& version) {
  if (IsTested(version) || getenv("WEFT_NIXL_ANY_VERSION") != nullptr) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "nixl ", version.empty() ? "of an unknown version" : version, " (",
      library,
      ") has not been tested, tested are 1.5.*; set WEFT_NIXL_ANY_VERSION=1 "
      "to use it"));
}

// The symbols of NIXL's own gRPC and protobuf must not mix with those that
// this program was linked with. A sanitizer forbids deep binding, and programs
// with one hold neither when they use this leaf.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kBindsDeep = false;
#else
constexpr bool kBindsDeep = true;
#endif
constexpr int kLoadFlags =
    RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE | (kBindsDeep ? RTLD_DEEPBIND : 0);

absl::StatusOr<std::string> TryLoader() {
  for (const char* name : {"libnixl_capi.so.0", "libnixl_capi.so"}) {
    Handle handle = dlopen(name, kLoadFlags);
    if (handle == nullptr) continue;
    const std::string file =
        LoadedFile(dlsym(handle, "nixl_capi_create_configured_agent"));
    if (!file.empty()) return file;
  }
  return absl::NotFoundError("not on the loader's path");
}

bool HasEfa() {
  for (const std::string& file :
       Glob("/sys/class/infiniband/*/device/vendor")) {
    std::ifstream stream(file);
    std::string vendor;
    if (stream >> vendor && vendor == "0x1d0f") return true;
  }
  return false;
}

// UCX's module for EFA brings the system's libefa, that brings the system's
// libnl beside the one of the package, and the process crashes when it ends.
// UCX reads this when it is loaded; that it then calls the variable unused, on
// standard output, is silenced.
std::vector<std::pair<std::string, std::string>> WithoutEfa() {
  if (getenv("UCX_MODULES") != nullptr || HasEfa()) return {};
  return {{"UCX_MODULES", "^efa"}, {"UCX_WARN_UNUSED_ENV_VARS", "n"}};
}

}  // namespace

bool IsTested(const std::string& version) {
  return absl::StartsWith(version, "1.5.");
}

std::string PackageVersion(const std::string& library) {
  for (const std::string& folder :
       Glob((SitePackages(library) / "nixl_cu1[0-9]-*.dist-info").string())) {
    const std::string name = fs::path(folder).stem().string();
    return name.substr(name.find('-') + 1);
  }
  return "";
}

std::string BundledUcx(const std::string& library) {
  for (const std::string& path :
       Glob((SitePackages(library) / "nixl_cu1[0-9].libs/libucp-*.so*")
                .string())) {
    return Real(path);
  }
  return "";
}

absl::StatusOr<std::string> FindLibrary(const std::string& path) {
  std::string named = path;
  if (named.empty()) {
    const char* value = getenv("WEFT_NIXL_LIBRARY");
    if (value != nullptr) named = value;
  }
  if (!named.empty()) {
    std::error_code error;
    if (fs::is_regular_file(named, error)) return named;
    return absl::NotFoundError(absl::StrCat("there is no nixl library \"",
                                            named, "\": ", kHowToInstall));
  }
  const std::vector<std::string> packages = InPythonPackages();
  if (!packages.empty()) return packages.front();
  absl::StatusOr<std::string> found = TryLoader();
  if (found.ok()) return found;
  return absl::NotFoundError(
      absl::StrCat("nixl is not installed: ", kHowToInstall));
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Environment(
    const std::string& path, const std::string& links) {
  WEFT_ASSIGN_OR_RETURN(const std::string library, FindLibrary(path));
  std::vector<std::pair<std::string, std::string>> environment;
  if (CheckOneUcx(library).ok()) return environment;
  const fs::path folder = fs::path(BundledUcx(library)).parent_path();
  std::string ucs;
  for (const char* name : {"libucp", "libucs"}) {
    const std::vector<std::string> found =
        Glob(absl::StrCat(folder.string(), "/", name, "-*.so*"));
    if (found.empty()) {
      return absl::NotFoundError(
          absl::StrCat("no ", name, " in ", folder.string()));
    }
    ucs = found.front();
    std::error_code error;
    fs::create_symlink(found.front(),
                       fs::path(links) / absl::StrCat(name, ".so.0"), error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot make a link in ", links, ": ", error.message()));
    }
  }
  const auto prepend = [&](const char* name, std::string value) {
    const char* before = getenv(name);
    if (before != nullptr && *before != 0) absl::StrAppend(&value, ":", before);
    environment.emplace_back(name, std::move(value));
  };
  for (auto& setting : WithoutEfa()) environment.push_back(setting);
  // Its UCX would warn on standard output, where answers go.
  if (getenv("UCX_LOG_FILE") == nullptr) {
    environment.emplace_back("UCX_LOG_FILE", "stderr");
  }
  prepend("LD_LIBRARY_PATH", absl::StrCat(folder.string(), ":", links));
  // UCX looks for its modules beside the name that libucs was loaded by, with
  // the ending of that name: under the link's it would find none of the
  // package's, and be left with tcp.
  prepend("LD_PRELOAD", ucs);
  return environment;
}

absl::Status Library::Resolve(Handle handle) {
  std::vector<std::string> missing;
  const auto find = [&](const char* name, auto& function) {
    const std::string symbol = absl::StrCat(kPrefix, name);
    void* address = dlsym(handle, symbol.c_str());
    if (address == nullptr) missing.push_back(symbol);
    function = reinterpret_cast<std::decay_t<decltype(function)>>(address);
  };
#define WEFT_NIXL_FIND(result, name, arguments) find(#name, name);
  WEFT_NIXL_FUNCTIONS(WEFT_NIXL_FIND)
#undef WEFT_NIXL_FIND
  if (!missing.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " is not a nixl that Weft knows: it lacks ",
                     absl::StrJoin(missing, ", ")));
  }
  void* own_free = dlsym(handle, "nixl_capi_mem_free");
  // Bound deep, it allocates by its own libc, else as this program does.
  if (own_free == nullptr && kBindsDeep) own_free = dlsym(handle, "free");
  free_ = own_free == nullptr ? &::free
                              : reinterpret_cast<void (*)(void*)>(own_free);
  return absl::OkStatus();
}

std::string Library::Describe() const {
  return absl::StrCat("nixl ", version_.empty() ? "unknown" : version_, " (",
                      path_, ")");
}

absl::StatusOr<std::shared_ptr<const Library>> Library::Load(
    const std::string& path) {
  static std::mutex mutex;
  static auto* const loaded =
      new std::unordered_map<std::string, std::shared_ptr<const Library>>;
  const std::lock_guard lock(mutex);
  WEFT_ASSIGN_OR_RETURN(const std::string file, FindLibrary(path));
  if (const auto found = loaded->find(file); found != loaded->end()) {
    return found->second;
  }
  std::shared_ptr<Library> library(new Library);
  library->path_ = file;
  library->version_ = PackageVersion(file);
  WEFT_RETURN_IF_ERROR(CheckOneUcx(file));
  for (const auto& [name, value] : WithoutEfa()) {
    setenv(name.c_str(), value.c_str(), 0);
  }
  Handle handle = dlopen(file.c_str(), kLoadFlags);
  if (handle == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("nixl does not load: ", dlerror()));
  }
  // First, since it names what is wrong when this is not NIXL at all.
  WEFT_RETURN_IF_ERROR(library->Resolve(handle));
  WEFT_RETURN_IF_ERROR(CheckVersion(file, library->version_));
  loaded->emplace(file, library);
  return library;
}

}  // namespace weft::transport::nixl
