#include "weft/catalog/access/audit_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

// "2026-01-31T12:00:00.123Z"
std::string UtcNow() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = ms / 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  return absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
                         utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                         utc.tm_hour, utc.tm_min, utc.tm_sec, ms % 1000);
}

std::string LineOf(const AuditEntry& entry) {
  // Ordered as it is read, and only ASCII: what a client sent is shown, never
  // obeyed by a terminal.
  nlohmann::ordered_json line;
  line["time"] = UtcNow();
  const auto add = [&line](const char* name, const std::string& value) {
    if (!value.empty()) line[name] = CleanReason(value);
  };
  add("peer", entry.peer);
  add("token", entry.token);
  add("certificate", entry.certificate);
  add("call", entry.call);
  add("model", entry.model);
  add("worker", entry.worker);
  add("subject", entry.subject);
  line["outcome"] =
      entry.outcome.ok()
          ? std::string("OK")
          : std::string(absl::StatusCodeToString(entry.outcome.code()));
  add("error", std::string(entry.outcome.message()));
  return line.dump() + "\n";
}

}  // namespace

AuditLog::AuditLog(std::string path, Note on_note)
    : path_(std::move(path)), on_note_(std::move(on_note)) {}

AuditLog::~AuditLog() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(
    const std::string& path, Note on_note) {
  std::unique_ptr<AuditLog> log(new AuditLog(path, std::move(on_note)));
  const std::lock_guard lock(log->mutex_);
  if (absl::Status status = log->Reopen(); !status.ok()) return status;
  return log;
}

// Unless the file at the path is the one that is open.
absl::Status AuditLog::Reopen() {
  struct stat here {};
  struct stat there {};
  if (fd_ >= 0 && fstat(fd_, &here) == 0 && stat(path_.c_str(), &there) == 0 &&
      here.st_ino == there.st_ino && here.st_dev == there.st_dev) {
    return absl::OkStatus();
  }
  const int fd =
      open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::UnavailableError(absl::StrCat(
        "audit log \"", path_, "\" cannot be opened: ", std::strerror(errno)));
  }
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
  return absl::OkStatus();
}

bool AuditLog::WriteAll(const std::string& line) {
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t count = write(fd_, line.data() + done, line.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

void AuditLog::Write(const AuditEntry& entry) {
  const std::string line = LineOf(entry);
  std::string note;
  {
    const std::lock_guard lock(mutex_);
    absl::Status status = Reopen();
    if (status.ok() && !WriteAll(line)) {
      status = absl::UnavailableError(
          absl::StrCat("audit log \"", path_,
                       "\" cannot be written: ", std::strerror(errno)));
    }
    if (!status.ok() && !failing_) {
      note = absl::StrCat(std::string(status.message()),
                          "; calls go on without it");
    }
    failing_ = !status.ok();
  }
  if (!note.empty() && on_note_) on_note_(note);
}

}  // namespace weft::catalog
