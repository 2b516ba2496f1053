// A child process that talks in lines: the demo's trainers and engines.
#ifndef WEFT_APPS_CHILD_PROCESS_H_
#define WEFT_APPS_CHILD_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"

namespace weft::apps {

// Owns the process: killed (SIGKILL) and reaped when destroyed; it also dies
// when this process does. Not thread-safe.
class ChildProcess {
 public:
  // `label` names it in errors: "trainer rank 2".
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(
      std::string label, const std::vector<std::string>& argv);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Next line of its standard output, without the newline. kUnavailable with
  // the end of its standard error when it has ended.
  absl::StatusOr<std::string> ReadLine(base::Deadline deadline);
  absl::Status WriteLine(const std::string& line);
  void CloseInput();
  // Waits for its end; the exit code, or 128 + signal.
  absl::StatusOr<int> Wait(base::Deadline deadline);
  void Kill(int signal);
  pid_t pid() const { return pid_; }
  const std::string& label() const { return label_; }

 private:
  ChildProcess() = default;
  std::string ErrorTail();

  std::string label_;
  pid_t pid_ = -1;
  int input_ = -1;   // its standard input
  int output_ = -1;  // its standard output
  int error_ = -1;   // its standard error, an unlinked file
  bool reaped_ = false;
  int exit_code_ = 0;
  std::string pending_;
};

// Path of the running program, for starting itself again.
std::string SelfPath();

}  // namespace weft::apps

#endif  // WEFT_APPS_CHILD_PROCESS_H_
