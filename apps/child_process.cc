#include "child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

void CloseIfOpen(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

// In the child, between fork and exec: only async-signal-safe calls.
[[noreturn]] void BecomeChild(int in, int out, int err, pid_t parent,
                              char* const* argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  execv(argv[0], argv);
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    std::string label, const std::vector<std::string>& argv) {
  // A child that has died must not kill the parent that writes to it.
  signal(SIGPIPE, SIG_IGN);
  std::unique_ptr<ChildProcess> child(new ChildProcess);
  child->label_ = std::move(label);
  int to_child[2] = {-1, -1};
  int from_child[2] = {-1, -1};
  child->error_ = memfd_create("weft_stderr", MFD_CLOEXEC);
  if (child->error_ < 0 || pipe2(to_child, O_CLOEXEC) != 0 ||
      pipe2(from_child, O_CLOEXEC) != 0) {
    const int error = errno;
    for (int fd : {to_child[0], to_child[1], from_child[0], from_child[1]}) {
      CloseIfOpen(fd);
    }
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot make pipes for ", child->label_, ": ", std::strerror(error)));
  }
  std::vector<char*> raw;
  for (const std::string& word : argv) {
    raw.push_back(const_cast<char*>(word.c_str()));
  }
  raw.push_back(nullptr);
  const pid_t parent = getpid();
  child->pid_ = fork();
  if (child->pid_ == 0) {
    BecomeChild(to_child[0], from_child[1], child->error_, parent, raw.data());
  }
  close(to_child[0]);
  close(from_child[1]);
  child->input_ = to_child[1];
  child->output_ = from_child[0];
  if (child->pid_ < 0) {
    child->reaped_ = true;
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start ", child->label_));
  }
  return child;
}

ChildProcess::~ChildProcess() {
  if (!reaped_ && pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  CloseIfOpen(input_);
  CloseIfOpen(output_);
  CloseIfOpen(error_);
}

std::string ChildProcess::ErrorTail() {
  constexpr off_t kTailBytes = 2000;
  const off_t end = lseek(error_, 0, SEEK_END);
  if (end <= 0) return "it printed no error";
  std::string tail(static_cast<size_t>(std::min(end, kTailBytes)), '\0');
  const ssize_t got = pread(error_, tail.data(), tail.size(),
                            end - static_cast<off_t>(tail.size()));
  tail.resize(got > 0 ? static_cast<size_t>(got) : 0);
  while (!tail.empty() && tail.back() == '\n') tail.pop_back();
  return tail;
}

absl::StatusOr<std::string> ChildProcess::ReadLine(base::Deadline deadline) {
  while (true) {
    const size_t newline = pending_.find('\n');
    if (newline != std::string::npos) {
      std::string line = pending_.substr(0, newline);
      pending_.erase(0, newline + 1);
      return line;
    }
    WEFT_RETURN_IF_ERROR(deadline.Check(absl::StrCat("waiting for ", label_)));
    const auto wait_ms = std::min<int64_t>(
        INT_MAX, std::chrono::duration_cast<std::chrono::milliseconds>(
                     deadline.Remaining())
                         .count() +
                     1);
    pollfd poller{output_, POLLIN, 0};
    if (poll(&poller, 1, static_cast<int>(wait_ms)) <= 0) continue;
    char block[4096];
    const ssize_t got = read(output_, block, sizeof(block));
    if (got > 0) {
      pending_.append(block, static_cast<size_t>(got));
    } else if (got == 0 || errno != EINTR) {
      return absl::UnavailableError(
          absl::StrCat(label_, " has ended: ", ErrorTail()));
    }
  }
}

absl::Status ChildProcess::WriteLine(const std::string& line) {
  const std::string bytes = line + "\n";
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t put =
        write(input_, bytes.data() + written, bytes.size() - written);
    if (put > 0) {
      written += static_cast<size_t>(put);
    } else if (errno != EINTR) {
      return absl::UnavailableError(
          absl::StrCat(label_, " has ended: ", ErrorTail()));
    }
  }
  return absl::OkStatus();
}

void ChildProcess::CloseInput() { CloseIfOpen(input_); }

absl::StatusOr<int> ChildProcess::Wait(base::Deadline deadline) {
  while (!reaped_) {
    int status = 0;
    const pid_t ended = waitpid(pid_, &status, WNOHANG);
    if (ended == pid_) {
      reaped_ = true;
      exit_code_ =
          WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      break;
    }
    WEFT_RETURN_IF_ERROR(
        deadline.Check(absl::StrCat("waiting for the end of ", label_)));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return exit_code_;
}

void ChildProcess::Kill(int signal) {
  if (!reaped_ && pid_ > 0) kill(pid_, signal);
}

std::string SelfPath() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "weft";
}

}  // namespace weft::apps
