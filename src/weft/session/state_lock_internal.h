// That a state file is one receiver's, as long as that lives: its lock is
// FILE.lock, which stays when nobody holds it.
#ifndef WEFT_SESSION_STATE_LOCK_INTERNAL_H_
#define WEFT_SESSION_STATE_LOCK_INTERNAL_H_

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace weft::session {

// Given back when it is destroyed, and by the kernel when the process ends,
// however it does: a process that was forked off and lives on does not hold it.
class StateLock {
 public:
  // Of the state file `path`. kFailedPrecondition, with the name of the
  // process, when a receiver of this process or of another one has it.
  static absl::StatusOr<std::unique_ptr<StateLock>> Take(
      const std::string& path);
  ~StateLock();
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;

 private:
  StateLock(int fd, dev_t device, ino_t inode)
      : fd_(fd), device_(device), inode_(inode) {}

  const int fd_;
  const dev_t device_;
  const ino_t inode_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_STATE_LOCK_INTERNAL_H_
