// A file with secrets that a person may change while it is in use.
#ifndef WEFT_CATALOG_ACCESS_CHANGING_FILE_H_
#define WEFT_CATALOG_ACCESS_CHANGING_FILE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace weft::catalog {

// What tells one content of a file from another.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t bytes = 0;
  int64_t changed_ns = 0;
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// Of the file that the path leads to now; all 0 if it leads nowhere.
FileStamp StampOf(const std::string& path);
struct StampedText {
  FileStamp stamp;
  std::string text;
};
// kPermissionDenied if anyone but its owner may read or write the file: it
// holds `what`. kNotFound or kUnavailable if it cannot be read; at most 1 MiB.
absl::StatusOr<StampedText> ReadSecret(std::string_view what,
                                       const std::string& path);

// The parsed content of such a file. Thread-safe.
template <typename T>
class ChangingFile {
 public:
  using Parse = std::function<absl::StatusOr<T>(std::string_view text)>;
  using Note = std::function<void(const std::string& line)>;

  // An error of ReadSecret or of `parse` for what it holds now. `on_note`, if
  // given, is told of each change, and of one that is refused.
  static absl::StatusOr<std::unique_ptr<ChangingFile>> Open(std::string what,
                                                            std::string path,
                                                            Parse parse,
                                                            Note on_note) {
    std::unique_ptr<ChangingFile> file(
        new ChangingFile(std::move(what), std::move(path), std::move(parse),
                         std::move(on_note)));
    if (absl::Status status = file->Read(); !status.ok()) return status;
    return file;
  }

  // What the file holds now, or held when it was last good.
  std::shared_ptr<const T> Get() {
    const std::lock_guard lock(mutex_);
    if (StampOf(path_) == stamp_) return value_;
    const absl::Status status = Read();
    if (!on_note_) return value_;
    on_note_(status.ok()
                 ? absl::StrCat("the ", what_, " file \"", path_,
                                "\" has changed and is in force")
                 : absl::StrCat("the ", what_, " file \"", path_,
                                "\" has changed and is refused, what it held "
                                "before stays in force: ",
                                std::string(status.message())));
    return value_;
  }

 private:
  ChangingFile(std::string what, std::string path, Parse parse, Note on_note)
      : what_(std::move(what)),
        path_(std::move(path)),
        parse_(std::move(parse)),
        on_note_(std::move(on_note)) {}

  // A content that is refused is not looked at again until it changes.
  absl::Status Read() {
    stamp_ = StampOf(path_);
    absl::StatusOr<StampedText> read = ReadSecret(what_, path_);
    if (!read.ok()) return read.status();
    stamp_ = read->stamp;
    absl::StatusOr<T> parsed = parse_(read->text);
    if (!parsed.ok()) {
      return absl::Status(parsed.status().code(),
                          absl::StrCat(what_, " file \"", path_, "\": ",
                                       std::string(parsed.status().message())));
    }
    value_ = std::make_shared<const T>(*std::move(parsed));
    return absl::OkStatus();
  }

  const std::string what_;
  const std::string path_;
  const Parse parse_;
  const Note on_note_;
  std::mutex mutex_;
  FileStamp stamp_;
  std::shared_ptr<const T> value_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_ACCESS_CHANGING_FILE_H_
