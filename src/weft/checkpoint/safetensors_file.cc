#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"

namespace weft::checkpoint {
namespace {

absl::Status OpenError(const std::string& path, int error) {
  if (error == ENOENT || error == ENOTDIR) {
    return absl::NotFoundError(absl::StrCat("no file ", path));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot read ", path, ": ", std::strerror(error)));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// A read-only mapping of a whole file.
class Mapping {
 public:
  Mapping(void* address, std::size_t bytes)
      : address_(address), bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)),
        bytes_(other.bytes_) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (address_ != nullptr) munmap(address_, bytes_);
  }
  std::string_view view() const {
    return {static_cast<const char*>(address_), bytes_};
  }

 private:
  void* address_;  // null for an empty file
  std::size_t bytes_;
};

absl::StatusOr<Mapping> MapFile(const std::string& path) {
  // O_NONBLOCK: a named pipe must be refused below, not waited for.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return OpenError(path, errno);
  struct stat info;
  if (fstat(file.get(), &info) != 0) return OpenError(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no regular file"));
  }
  const std::size_t bytes = static_cast<std::size_t>(info.st_size);
  if (bytes == 0) return Mapping(nullptr, 0);
  void* address =
      mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.get(), /*offset=*/0);
  if (address == MAP_FAILED) return OpenError(path, errno);
  return Mapping(address, bytes);
}

class MappedSafetensorsFile final : public SafetensorsFile {
 public:
  MappedSafetensorsFile(Mapping mapping, ParsedHeader header)
      : mapping_(std::move(mapping)), header_(std::move(header)) {}

  const ParsedHeader& header() const override { return header_; }

  absl::Span<const std::byte> Data(const TensorEntry& entry) const override {
    const std::string_view bytes = mapping_.view().substr(
        static_cast<std::size_t>(header_.data_begin_bytes + entry.begin_bytes),
        static_cast<std::size_t>(entry.end_bytes - entry.begin_bytes));
    return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
  }

 private:
  Mapping mapping_;
  ParsedHeader header_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(Mapping mapping, MapFile(path));
  const std::string_view bytes = mapping.view();
  absl::StatusOr<ParsedHeader> header =
      ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()));
  if (!header.ok()) return base::Annotate(header.status(), path);
  return std::make_shared<const MappedSafetensorsFile>(std::move(mapping),
                                                       *std::move(header));
}

}  // namespace weft::checkpoint
