#include "weft/base/read_file.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace weft::base {
namespace {

absl::Status CannotRead(const std::string& path, int error) {
  const std::string text =
      absl::StrCat("cannot read \"", path, "\": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(text)
                         : absl::UnavailableError(text);
}

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  // A stream's iterators throw at a directory.
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rbe"));
  if (file == nullptr) return CannotRead(path, errno);
  std::string text;
  std::array<char, 1 << 14> part;
  while (true) {
    const size_t count = std::fread(part.data(), 1, part.size(), file.get());
    text.append(part.data(), count);
    if (count == part.size()) continue;
    if (std::ferror(file.get()) != 0) return CannotRead(path, errno);
    return text;
  }
}

}  // namespace weft::base
