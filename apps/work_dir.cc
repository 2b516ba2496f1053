#include "work_dir.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft::apps {

namespace fs = std::filesystem;

absl::StatusOr<std::unique_ptr<WorkDir>> WorkDir::Make(
    const std::string& prefix, uint64_t needed_bytes) {
  std::error_code error;
  const fs::space_info shm = fs::space("/dev/shm", error);
  const bool in_memory = !error && shm.available > needed_bytes;
  std::string path =
      absl::StrCat(in_memory ? "/dev/shm/" : "/tmp/", prefix, ".XXXXXX");
  if (mkdtemp(path.data()) == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot make a folder like ", path));
  }
  return std::unique_ptr<WorkDir>(new WorkDir(std::move(path)));
}

WorkDir::WorkDir(std::string path) : path_(std::move(path)) {}

WorkDir::~WorkDir() { Remove(path_); }

void WorkDir::Remove(const std::string& path) {
  constexpr int kTries = 10;
  std::error_code error;
  for (int i = 0; i < kTries; ++i) {
    fs::remove_all(path, error);
    if (!error) return;
  }
}

}  // namespace weft::apps
