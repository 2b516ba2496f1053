#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"
#include "weft/session/state_file_internal.h"

namespace weft::session {
namespace {

constexpr absl::string_view kFirstWord = "weft-receiver-state ";
constexpr absl::string_view kFirstLine = "weft-receiver-state 1\n";
constexpr absl::string_view kChecksumWord = "checksum ";

class File {
 public:
  File(const std::string& path, int flags)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

absl::Status SystemError(absl::string_view what, const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error,
                             absl::StrCat("cannot ", what, " \"", path, "\""));
}

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("not a receiver's state: ", what));
}

// Takes "<word> <value>\n" off the front.
bool TakeLine(absl::string_view& rest, absl::string_view word,
              absl::string_view& value) {
  const size_t end = rest.find('\n');
  if (end == absl::string_view::npos) return false;
  value = rest.substr(0, end);
  if (!absl::ConsumePrefix(&value, word) || !absl::ConsumePrefix(&value, " ")) {
    return false;
  }
  rest.remove_prefix(end + 1);
  return true;
}

bool IsDigestHex(absl::string_view text) {
  if (text.size() != 64) return false;
  for (const char c : text) {
    if (!absl::ascii_isdigit(c) && (c < 'a' || c > 'f')) return false;
  }
  return true;
}

absl::StatusOr<std::string> ReadSmallFile(int fd, const std::string& path) {
  std::string bytes(kMaxStateFileBytes + 1, '\0');
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t got = read(fd, bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read", path);
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  bytes.resize(have);
  return bytes;
}

absl::Status WriteAll(int fd, absl::string_view bytes,
                      const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return SystemError("write", path);
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return fsync(fd) == 0 ? absl::OkStatus() : SystemError("write", path);
}

}  // namespace

std::string EncodeReceiverState(const ReceiverState& state) {
  std::string text = absl::StrCat(
      kFirstLine, "state ", state.dirty ? "dirty" : "committed", "\nversion ",
      catalog::ToString(state.version), "\nmodel ", state.model, "\nlayout ",
      state.layout_digest_hex, "\ngeneration ", state.generation, "\npid ",
      state.process_id, "\n");
  const std::string checksum = manifest::DigestOf(text).ToHex();
  absl::StrAppend(&text, kChecksumWord, checksum, "\n");
  return text;
}

absl::StatusOr<ReceiverState> DecodeReceiverState(std::string_view text) {
  const absl::string_view bytes(text.data(), text.size());
  if (static_cast<int64_t>(bytes.size()) > kMaxStateFileBytes) {
    return Malformed(
        absl::StrCat("it has more than ", kMaxStateFileBytes, " bytes"));
  }
  absl::string_view rest = bytes;
  if (!absl::ConsumePrefix(&rest, kFirstLine)) {
    return absl::ConsumePrefix(&rest, kFirstWord)
               ? absl::UnimplementedError(
                     "a receiver's state of another format, not 1")
               : Malformed("its first line is another one");
  }
  ReceiverState state;
  absl::string_view word, version, model, layout, generation, pid, checksum;
  if (!TakeLine(rest, "state", word) || !TakeLine(rest, "version", version) ||
      !TakeLine(rest, "model", model) || !TakeLine(rest, "layout", layout) ||
      !TakeLine(rest, "generation", generation) ||
      !TakeLine(rest, "pid", pid)) {
    return Malformed("a line is missing or out of order");
  }
  const absl::string_view summed = bytes.substr(0, bytes.size() - rest.size());
  if (!TakeLine(rest, "checksum", checksum) || !rest.empty()) {
    return Malformed("it does not end with one checksum");
  }
  if (word != "dirty" && word != "committed") {
    return Malformed("it is neither dirty nor committed");
  }
  state.dirty = word == "dirty";
  const auto parsed = catalog::ParseVersionId(std::string(version));
  if (!parsed.ok()) return Malformed(parsed.status().message());
  state.version = *parsed;
  const absl::Status named = catalog::CheckName("model", std::string(model));
  if (!named.ok()) return Malformed(named.message());
  state.model = std::string(model);
  if (!IsDigestHex(layout)) return Malformed("its layout is no digest");
  state.layout_digest_hex = std::string(layout);
  if (!absl::SimpleAtoi(generation, &state.generation) ||
      !absl::SimpleAtoi(pid, &state.process_id)) {
    return Malformed("its generation or pid is no number");
  }
  if (checksum != manifest::DigestOf(std::string(summed)).ToHex()) {
    return Malformed("its checksum differs");
  }
  // One spelling of each number.
  if (EncodeReceiverState(state) != bytes) {
    return Malformed("it is spelled otherwise than Weft writes it");
  }
  return state;
}

absl::StatusOr<std::optional<ReceiverState>> ReadStateFile(
    const std::string& path) {
  // Not blocked by a pipe of that name.
  const File file(path, O_RDONLY | O_NONBLOCK);
  if (file.fd() < 0) {
    if (errno == ENOENT) return std::nullopt;
    return SystemError("open state file", path);
  }
  WEFT_ASSIGN_OR_RETURN(const std::string bytes,
                        ReadSmallFile(file.fd(), path));
  absl::StatusOr<ReceiverState> state = DecodeReceiverState(bytes);
  if (state.ok()) return *std::move(state);
  return absl::Status(
      state.status().code(),
      absl::StrCat("state file \"", path, "\" is ",
                   std::string(state.status().message()),
                   "; name another file, or remove it if the engine's memory "
                   "is to be filled anew"));
}

absl::Status WriteStateFile(const std::string& path,
                            const ReceiverState& state) {
  const std::string next = absl::StrCat(path, ".next");
  {
    const File file(next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
    if (file.fd() < 0) return SystemError("create state file", next);
    WEFT_RETURN_IF_ERROR(WriteAll(file.fd(), EncodeReceiverState(state), next));
  }
  if (rename(next.c_str(), path.c_str()) != 0) {
    return SystemError("replace state file", path);
  }
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : path.substr(0, slash);
  const File directory(folder, O_RDONLY | O_DIRECTORY);
  if (directory.fd() < 0 || fsync(directory.fd()) != 0) {
    return SystemError("write the folder of state file", path);
  }
  return absl::OkStatus();
}

}  // namespace weft::session
