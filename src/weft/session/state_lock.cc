#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/session/state_lock_internal.h"

namespace weft::session {
namespace {

// The kernel's record locks are of a process: they end with it, whomever it has
// forked off, and do not keep its own receivers apart. Those are kept here, by
// device and inode, with the process that took them: what a fork inherits is
// not held by it.
struct Held {
  std::mutex mutex;
  std::map<std::pair<dev_t, ino_t>, pid_t> by;
};

Held& ThisProcess() {
  static Held* const held = new Held;
  return *held;
}

absl::Status HeldBy(const std::string& path, const std::string& who,
                    const std::string& end) {
  return absl::FailedPreconditionError(
      absl::StrCat("state file \"", path, "\" is held by ", who,
                   "; give each rank a file of its own, or ", end));
}

struct flock WholeFile() {
  struct flock whole = {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return whole;
}

absl::Status RefusedBy(int fd, const std::string& path) {
  struct flock holder = WholeFile();
  // 0: of a container or host whose processes have no number here.
  const bool known = fcntl(fd, F_GETLK, &holder) == 0 &&
                     holder.l_type != F_UNLCK && holder.l_pid > 0;
  return HeldBy(path,
                known ? absl::StrCat("process ", holder.l_pid)
                      : "a process of another container or host",
                "end that one first");
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateLock>> StateLock::Take(
    const std::string& path) {
  const std::string name = absl::StrCat(path, ".lock");
  const pid_t self = getpid();
  Held& held = ThisProcess();
  const std::lock_guard lock(held.mutex);
  struct stat file = {};
  // Before it is opened: to close it again would give up the lock that is held.
  if (stat(name.c_str(), &file) == 0) {
    const auto found = held.by.find({file.st_dev, file.st_ino});
    if (found != held.by.end() && found->second == self) {
      return HeldBy(path,
                    absl::StrCat("another receiver of this process, ", self),
                    "close that one first");
    }
  }
  const int fd =
      open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
  if (fd < 0 || fstat(fd, &file) != 0) {
    const absl::Status failed = absl::ErrnoToStatus(
        errno, absl::StrCat("cannot create \"", name, "\", the lock of state ",
                            "file \"", path, "\""));
    if (fd >= 0) close(fd);
    return failed;
  }
  struct flock whole = WholeFile();
  if (fcntl(fd, F_SETLK, &whole) != 0) {
    const absl::Status refused =
        errno == EAGAIN || errno == EACCES
            ? RefusedBy(fd, path)
            : absl::ErrnoToStatus(
                  errno, absl::StrCat("cannot lock \"", name,
                                      "\"; name a state file on a local disk"));
    close(fd);
    return refused;
  }
  held.by[{file.st_dev, file.st_ino}] = self;
  return std::unique_ptr<StateLock>(
      new StateLock(fd, file.st_dev, file.st_ino));
}

StateLock::~StateLock() {
  Held& held = ThisProcess();
  const std::lock_guard lock(held.mutex);
  held.by.erase({device_, inode_});
  close(fd_);
}

}  // namespace weft::session
