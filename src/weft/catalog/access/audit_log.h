// One JSON line for each call that changed something or was refused.
#ifndef WEFT_CATALOG_ACCESS_AUDIT_LOG_H_
#define WEFT_CATALOG_ACCESS_AUDIT_LOG_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::catalog {

struct AuditEntry {
  std::string peer{};         // "ipv4:10.0.0.7:51234"
  std::string token{};        // its name, never the token
  std::string certificate{};  // common name of the client's certificate
  std::string call{};         // "PublishShard"
  std::string worker{};
  std::string model{};
  std::string subject{};  // what else it was about: a version, a digest
  absl::Status outcome{};
};

// Appends to a file that others may rotate by renaming it: the path is opened
// anew when the file there is another one. Thread-safe.
class AuditLog {
 public:
  using Note = std::function<void(const std::string& line)>;
  // Made with mode 0600 if it is not there. kUnavailable if it cannot be
  // opened. `on_note` is told once when lines can no longer be written.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path,
                                                        Note on_note);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  void Write(const AuditEntry& entry);

 private:
  AuditLog(std::string path, Note on_note);
  absl::Status Reopen();  // mutex_ is held
  bool WriteAll(const std::string& line);

  const std::string path_;
  const Note on_note_;
  std::mutex mutex_;
  int fd_ = -1;
  bool failing_ = false;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_ACCESS_AUDIT_LOG_H_
