#include "weft/catalog/access/changing_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace weft::catalog {
namespace {

constexpr int64_t kMaxSecretBytes = 1 << 20;

FileStamp StampOf(const struct stat& found) {
  return {.device = found.st_dev,
          .inode = found.st_ino,
          .bytes = found.st_size,
          .changed_ns = int64_t{found.st_ctim.tv_sec} * 1'000'000'000 +
                        found.st_ctim.tv_nsec};
}

class OpenFile {
 public:
  explicit OpenFile(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

FileStamp StampOf(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return {};
  return StampOf(found);
}

absl::StatusOr<StampedText> ReadSecret(std::string_view what,
                                       const std::string& path) {
  const std::string name =
      absl::StrCat(std::string(what), " file \"", path, "\"");
  const OpenFile file(path);
  struct stat found {};
  if (file.fd() < 0 || fstat(file.fd(), &found) != 0) {
    const int error = errno;
    const std::string message =
        absl::StrCat(name, " cannot be read: ", std::strerror(error));
    return error == ENOENT ? absl::NotFoundError(message)
                           : absl::UnavailableError(message);
  }
  if (!S_ISREG(found.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is no file"));
  }
  if ((found.st_mode & 077) != 0) {
    const unsigned mode = found.st_mode & 0777;
    return absl::PermissionDeniedError(
        absl::StrCat(name, " may be read or changed by others (mode 0",
                     mode >> 6, (mode >> 3) & 7, mode & 7, "): chmod 600 it"));
  }
  if (found.st_size > kMaxSecretBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has ", found.st_size, " bytes, at most ",
                     kMaxSecretBytes, " are allowed"));
  }
  StampedText read{.stamp = StampOf(found), .text = {}};
  read.text.resize(static_cast<size_t>(found.st_size));
  size_t done = 0;
  while (done < read.text.size()) {
    const ssize_t count =
        ::read(file.fd(), read.text.data() + done, read.text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  read.text.resize(done);
  return read;
}

}  // namespace weft::catalog
