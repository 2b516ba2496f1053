#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "weft/base/byte_codec.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"

namespace weft::checkpoint {
namespace {

constexpr std::size_t kHeaderAlignBytes = 8;

// Where `path` is, for the temporary file and the fsync of the folder.
std::string FolderOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status WriteError(const std::string& path, int64_t bytes, int error) {
  const std::string what = absl::StrCat("cannot write ", path, " of ", bytes,
                                        " bytes: ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(what);
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(what);
    default:
      return absl::InvalidArgumentError(what);
  }
}

absl::Status ExistsError(const std::string& path) {
  return absl::AlreadyExistsError(absl::StrCat(
      "output ", path, " exists; remove it, or choose another name"));
}

// A file without its final name. Removes itself unless it was given one.
class TemporaryFile {
 public:
  static absl::StatusOr<TemporaryFile> Create(const std::string& final_path,
                                              int64_t bytes) {
    static std::atomic<int> counter{0};
    for (;;) {
      std::string path = absl::StrCat(final_path, ".part-", getpid(), "-",
                                      counter.fetch_add(1));
      const int fd =
          open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0) return TemporaryFile(std::move(path), fd);
      // A process that was killed may have left a file under our number.
      if (errno != EEXIST) return WriteError(final_path, bytes, errno);
    }
  }
  TemporaryFile(TemporaryFile&& other) noexcept
      : path_(std::exchange(other.path_, "")),
        fd_(std::exchange(other.fd_, -1)) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (fd_ >= 0) close(fd_);
    if (!path_.empty()) unlink(path_.c_str());
  }

  int fd() const { return fd_; }
  // Closes the file; returns errno or 0. A network file system may report a
  // full disk only here.
  int Close() { return close(std::exchange(fd_, -1)) == 0 ? 0 : errno; }

  // Gives the file its name; returns errno or 0 (EEXIST if taken).
  int MoveTo(const std::string& path, bool overwrite) {
    if (overwrite) {
      if (rename(path_.c_str(), path.c_str()) != 0) return errno;
      path_.clear();
      return 0;
    }
    if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, path.c_str(),
                  RENAME_NOREPLACE) == 0) {
      path_.clear();
      return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) return errno;
    // File systems without that flag: a hard link fails on a taken name too.
    return link(path_.c_str(), path.c_str()) == 0 ? 0 : errno;
  }

 private:
  TemporaryFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
};

// Returns errno or 0.
int WriteAll(int fd, absl::Span<const std::byte> data) {
  while (!data.empty()) {
    // Linux moves at most 2^31 - 4096 bytes in one call.
    const std::size_t chunk =
        std::min(data.size(), static_cast<std::size_t>(1) << 30);
    const ssize_t written = write(fd, data.data(), chunk);
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    data.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

// Returns errno or 0.
int WriteContent(int fd, const std::string& header,
                 const std::vector<TensorToWrite>& tensors,
                 int64_t file_bytes) {
  // Reserving first tells a full disk before hours of writing.
  if (fallocate(fd, /*mode=*/0, /*offset=*/0, file_bytes) != 0 &&
      (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
    return errno;
  }
  int error = WriteAll(
      fd, {reinterpret_cast<const std::byte*>(header.data()), header.size()});
  for (const TensorToWrite& tensor : tensors) {
    if (error == 0) error = WriteAll(fd, tensor.data);
  }
  if (error == 0 && fsync(fd) != 0) error = errno;
  return error;
}

int SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  // EINVAL: a file system that does not sync folders.
  return error == EINVAL ? 0 : error;
}

// All faults of what is to be written.
absl::Status CheckTensors(const std::vector<TensorToWrite>& tensors) {
  base::FaultList faults;
  std::set<std::string> names;
  for (const TensorToWrite& tensor : tensors) {
    const std::string& name = tensor.spec.name;
    if (!names.insert(name).second || name == "__metadata__") {
      faults.Add(absl::StrCat("tensor name \"", name,
                              "\" is reserved or occurs twice"));
    }
    std::optional<int64_t> bytes = tensor::ItemBytes(tensor.spec.dtype);
    for (const int64_t extent : tensor.spec.shape) {
      if (extent < 0) bytes.reset();
      if (bytes.has_value()) bytes = base::CheckedMul(*bytes, extent);
    }
    if (!bytes.has_value() ||
        static_cast<std::size_t>(*bytes) != tensor.data.size()) {
      faults.Add(absl::StrCat("tensor \"", name, "\" of dtype ",
                              std::string(tensor::DTypeName(tensor.spec.dtype)),
                              " and shape ",
                              tensor::ShapeToString(tensor.spec.shape),
                              " was given ", tensor.data.size(), " bytes"));
    }
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

// The 8-byte length and the padded JSON.
absl::StatusOr<std::string> EncodeHeader(
    const std::vector<TensorToWrite>& tensors,
    const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json root = nlohmann::ordered_json::object();
  if (!metadata.empty()) root["__metadata__"] = metadata;
  std::size_t begin_bytes = 0;
  // push_back to the underlying vector: operator[] would search all names.
  auto& members = root.get_ref<nlohmann::ordered_json::object_t&>();
  for (const TensorToWrite& tensor : tensors) {
    const std::size_t end_bytes = begin_bytes + tensor.data.size();
    nlohmann::ordered_json entry;
    entry["dtype"] = std::string(tensor::DTypeName(tensor.spec.dtype));
    entry["shape"] = std::vector<int64_t>(tensor.spec.shape.begin(),
                                          tensor.spec.shape.end());
    entry["data_offsets"] = {begin_bytes, end_bytes};
    members.push_back({tensor.spec.name, std::move(entry)});
    begin_bytes = end_bytes;
  }
  std::string text;
  try {
    text = root.dump();
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor name or metadata is not UTF-8: ", error.what()));
  }
  text.resize((text.size() + kHeaderAlignBytes - 1) / kHeaderAlignBytes *
                  kHeaderAlignBytes,
              ' ');
  if (text.size() > static_cast<std::size_t>(kMaxHeaderBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", text.size(),
                     " bytes is larger than the limit of ", kMaxHeaderBytes));
  }
  base::ByteWriter length;
  length.U64(text.size());
  return length.Take() + text;
}

}  // namespace

absl::Status CheckMayCreate(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0) return ExistsError(path);
  const std::string folder = FolderOf(path);
  if (stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(absl::StrCat(
        "cannot write ", path, ": there is no directory ", folder));
  }
  return absl::OkStatus();
}

absl::Status WriteSafetensors(
    const std::string& path, const std::vector<TensorToWrite>& tensors,
    const std::map<std::string, std::string>& metadata, bool overwrite) {
  WEFT_RETURN_IF_ERROR(base::Annotate(CheckTensors(tensors), path));
  absl::StatusOr<std::string> header = EncodeHeader(tensors, metadata);
  if (!header.ok()) return base::Annotate(header.status(), path);
  int64_t file_bytes = static_cast<int64_t>(header->size());
  for (const TensorToWrite& tensor : tensors) {
    file_bytes += static_cast<int64_t>(tensor.data.size());
  }
  // MoveTo decides; this only spares the writing of what would be thrown away.
  if (!overwrite) WEFT_RETURN_IF_ERROR(CheckMayCreate(path));

  WEFT_ASSIGN_OR_RETURN(TemporaryFile file,
                        TemporaryFile::Create(path, file_bytes));
  int error = WriteContent(file.fd(), *header, tensors, file_bytes);
  if (error == 0) error = file.Close();
  if (error == 0) {
    error = file.MoveTo(path, overwrite);
    if (error == EEXIST && !overwrite) return ExistsError(path);
  }
  if (error == 0) error = SyncFolder(FolderOf(path));
  if (error != 0) return WriteError(path, file_bytes, error);
  return absl::OkStatus();
}

}  // namespace weft::checkpoint
