#include "weft/memory/buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"

namespace weft::memory {
namespace {

int64_t PageBytes() {
  static const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  return page_bytes;
}

// What is mapped for a buffer of `bytes`: whole pages, and one at least, so
// that an empty buffer has an address too.
int64_t MappedBytes(int64_t bytes) {
  return base::AlignUp(bytes == 0 ? 1 : bytes, PageBytes());
}

absl::Status Refused(const char* call, int64_t bytes, int error) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes,
                                                   " bytes: ", call, " says ",
                                                   std::strerror(error)));
}

absl::StatusOr<int> MakeMemfd(int64_t bytes) {
  const int fd = memfd_create("weft", MFD_CLOEXEC);
  if (fd < 0) return Refused("memfd_create", bytes, errno);
  if (ftruncate(fd, MappedBytes(bytes)) != 0) {
    const int error = errno;
    close(fd);
    return Refused("ftruncate", bytes, error);
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Buffer>> Buffer::Allocate(MemoryKind kind,
                                                         int64_t bytes) {
  if (bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  if (bytes > std::numeric_limits<int64_t>::max() - PageBytes()) {
    return Refused("the address space", bytes, ENOMEM);
  }
  int fd = -1;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (kind == MemoryKind::kShared) {
    absl::StatusOr<int> memfd = MakeMemfd(bytes);
    if (!memfd.ok()) return memfd.status();
    fd = *memfd;
    flags = MAP_SHARED;
  }
  // Pages are not populated: a trainer registers far more than one refit
  // touches, and the first write places a page on the writer's NUMA node.
  void* base = mmap(nullptr, static_cast<size_t>(MappedBytes(bytes)),
                    PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return Refused("mmap", bytes, error);
  }
  return std::unique_ptr<Buffer>(new Buffer(kind, static_cast<std::byte*>(base),
                                            static_cast<size_t>(bytes), fd));
}

Buffer::~Buffer() {
  munmap(base_, static_cast<size_t>(MappedBytes(size_bytes())));
  if (fd_ >= 0) close(fd_);
}

}  // namespace weft::memory
