#include "weft/memory/shared_mapping.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace weft::memory {

absl::StatusOr<std::shared_ptr<SharedMapping>> SharedMapping::Map(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0 || info.st_size <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("file descriptor ", fd, " is no file with pages to map"));
  }
  void* base = mmap(nullptr, static_cast<size_t>(info.st_size),
                    PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    const std::string message =
        absl::StrCat("cannot map ", info.st_size, " shared bytes: mmap says ",
                     std::strerror(error));
    if (error == EACCES || error == EPERM) {
      return absl::PermissionDeniedError(message);
    }
    if (error == ENOMEM) return absl::ResourceExhaustedError(message);
    return absl::InvalidArgumentError(message);
  }
  return std::shared_ptr<SharedMapping>(
      new SharedMapping(static_cast<std::byte*>(base), info.st_size));
}

SharedMapping::~SharedMapping() {
  munmap(base_, static_cast<size_t>(size_bytes_));
}

}  // namespace weft::memory
